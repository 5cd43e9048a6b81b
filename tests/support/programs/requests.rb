# SPDX-License-Identifier: Apache-2.0
# What the handlers of Ruby's servers do: operations on files named after the request's number, with waits between.
module Requests
  def self.touch(number, step)
    File.stat("/kernelspan-request/#{number}/#{step}")
  rescue SystemCallError
    nil
  end

  def self.work(number, count, size)
    count.times do |step|
      touch(number, step)
      sleep(0.001 * (number.to_i % 3)) if step.odd?
    end
    [number.to_i % 10 == 7 ? 500 : 200, "#{number} #{size}"]
  end
end
