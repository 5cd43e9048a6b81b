module tls

go 1.22
