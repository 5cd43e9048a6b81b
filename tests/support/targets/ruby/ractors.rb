# SPDX-License-Identifier: Apache-2.0
# Ractors at work side by side. A Ractor cannot see what Said keeps: it gives its stacks to the main one, by number.
# None makes a Fiber: Ractors share the pool of their stacks without a lock, of which Ruby 3.1 crashes by itself, untraced,
# in 2 of 20 runs of 900.

require_relative "said"

Said.renew(ARGV[0])
ROUNDS = ARGV[1].to_i
Place = Struct.new(:base_label, :label, :path, :lineno)

class Worker
  def initialize(token, first)
    @token = token
    @number = first
    @said = []
  end

  attr_reader :said

  # The name that the operation on the line of the call is to be of.
  def name
    @number += 1
    @said << [@number, caller_locations(1).map { |at| [at.base_label, at.label, at.path, at.lineno] }]
    "/kernelspan-truth/#{@token}/#{@number}"
  end

  def work(n)
    File.exist?(name)
    [1].each { |x| File.exist?(name) }
    n > 0 ? work(n - 1) : -> { File.exist?(name) }.call
    eval("\nFile.exist?(name)", binding, "ractor.rb")
  end
end

ready
ROUNDS.times do |round|
  all = (0...3).map do |each|
    Ractor.new(Said.token.dup.freeze, 100_000 * (each + 1) + round * 1000) do |token, first|
      worker = Worker.new(token, first)
      10.times { |turn| worker.work(turn % 4) }
      worker.said
    end
  end
  all.each do |ractor|
    ractor.take.each do |number, rows|
      Said.note_as(number, "", rows.map { |row| Place.new(*row) }, "File.exist?")
    end
  end
end
Said.finish
