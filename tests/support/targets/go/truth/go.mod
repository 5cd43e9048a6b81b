module example.com/truth

go 1.18

require example.com/lib v1.2.3
