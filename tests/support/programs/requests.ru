# SPDX-License-Identifier: Apache-2.0
# Answers `/job/N/COUNT` as requests_app.py does, for any server of Rack.
require_relative "requests"

run(lambda do |env|
  _, _, number, count = env["PATH_INFO"].split("/")
  status, answer = Requests.work(number, count.to_i, env["rack.input"].read.size)
  [status, { "content-type" => "text/plain", "content-length" => answer.size.to_s }, [answer]]
end)
