# SPDX-License-Identifier: Apache-2.0
# As requests.ru, but every seventh request takes its connection away from the server, and a thread of its own answers.
require_relative "requests"

def answer(status, text)
  "HTTP/1.1 #{status} Said\r\nConnection: close\r\nContent-Length: #{text.size}\r\n\r\n#{text}"
end

run(lambda do |env|
  _, _, number, count = env["PATH_INFO"].split("/")
  size = env["rack.input"].read.size
  if number.to_i % 7 == 3
    socket = env["rack.hijack"].call
    Thread.new do
      sleep(0.02)
      socket.write(answer(*Requests.work(number, count.to_i, size)))
      socket.close
    end
  end
  status, text = Requests.work(number, number.to_i % 7 == 3 ? 0 : count.to_i, size)
  [status, { "content-type" => "text/plain", "content-length" => text.size.to_s }, [text]]
end)
