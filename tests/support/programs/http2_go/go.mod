module http2app

go 1.24
