module dns

go 1.22
