module example.com/local.v2

go 1.18
