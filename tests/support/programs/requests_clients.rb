# SPDX-License-Identifier: Apache-2.0
# Asks a server `/WAY/N` from several threads at once, each by a function of its own, once it says that it is ready.
# Arguments: a port, how often.
require "net/http"
require "open-uri"

PORT, COUNT = ARGV.map(&:to_i)

def by_get(number)
  Net::HTTP.get_response("127.0.0.1", "/by_get/#{number}", PORT)
end

def by_start(number)
  Net::HTTP.start("127.0.0.1", PORT) do |http|
    http.get("/by_start/#{number}")
  end
end

def by_kept(number)
  Thread.current[:kept] ||= Net::HTTP.start("127.0.0.1", PORT)
  Thread.current[:kept].post("/by_kept/#{number}", "x" * number)
end

def by_open(number)
  URI.open("http://127.0.0.1:#{PORT}/by_open/#{number}", &:read)
end

def ready
  File.exist?("/kernelspan-ready")
  Net::HTTP.get_response("127.0.0.1", "/ready/0", PORT).is_a?(Net::HTTPOK)
end

def all(ways)
  ways.map { |way| Thread.new { COUNT.times { |number| send(way, number) } } }.each(&:join)
end

sleep(0.05) until ready
all(%i[by_get by_start by_kept by_open])
