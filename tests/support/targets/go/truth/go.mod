module example.com/truth

go 1.18

require (
	example.com/forked v1.0.0
	example.com/lib v1.2.3
	example.com/local.v2 v1.0.0
)

replace (
	example.com/forked => example.com/fork v1.1.0-beta.1
	example.com/local.v2 => ../local
)
