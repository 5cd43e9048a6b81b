module kernelspan.io/tests/joins

go 1.21
