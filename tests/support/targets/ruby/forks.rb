# SPDX-License-Identifier: Apache-2.0
# Forked workers. A child has no page of libruby's own in its page tables but what it touches itself: names of C functions, which
# nobody reads while they run, may not be there for the kernel. Here all of them are let go just before each operation.

require_relative "said"
require "fiddle"

module Pages
  ADVISE = Fiddle::Function.new(Fiddle.dlopen(nil)["madvise"], [Fiddle::TYPE_VOIDP, Fiddle::TYPE_SIZE_T, Fiddle::TYPE_INT], Fiddle::TYPE_INT)
  # What follows the code: constants. Behind them is what the loader has written into, and may not be let go.
  OWN = File.readlines("/proc/self/maps").grep(/\/libruby-/)
  CONSTANT = OWN[OWN.index { |line| line.include?(" r-xp ") } + 1][/\S+/].split("-").map(&:hex)

  # MADV_DONTNEED, of a file's pages: they come back from it at the next touch.
  def self.let_go(number)
    ADVISE.call(CONSTANT[0], CONSTANT[1] - CONSTANT[0], 4)
    number
  end
end

Said.renew(ARGV[0])
CHILDREN = ARGV[1].to_i

def op
  Said.file.sysread(Pages.let_go(M())) rescue EOFError
end

def many
  [1, 2].each_cons(2) { op }
  [1].each_entry { op }
  [1, 2].chunk_while { op; true }.to_a
  [1, 2].combination(1) { op }
  [1, 2].permutation(1) { op }
  [1].product([1]) { op }
  [1].cycle(1) { op }
  [1, 2].bsearch { op; true }
  [1].reverse_each { op }
  [1].each_with_object(1) { op }
  [1].flat_map { op; [] }
  [1].group_by { op }
  [1].partition { op }
  [2, 1].min_by { op; 1 }
  [2, 1].minmax_by { op; 1 }
  [1].sum { op; 1 }
  [1].take_while { op; false }
  [1].drop_while { op; false }
  [1].find_index { op; true }
  [1].each_index { op }
  [1].zip([2]) { op }
  [1].select { op }
  [1].reject { op }
  {a: 1}.transform_values { op }
  {a: 1}.any? { op; false }
  {a: 1}.delete_if { op; false }
  {a: 1}.each_key { op }
  {a: 1}.fetch(:b) { op }
  "a".each_byte { op }
  "a".each_line { op }
  "a".sub(/a/) { op; "b" }
  "a".tr("a", "b").upto("b") { op }
  1.step(1) { op }
  2.downto(2) { op }
  (1..1).step(1) { op }
  Comparable.instance_method(:clamp).bind(1).call(1, 2)
  ObjectSpace.each_object(Class).first(1).each_slice(1) { op }
  Struct.new(:a).new(1).each { op }
  Process.clock_gettime(Process::CLOCK_MONOTONIC).then { op }
  Signal.trap("USR1") { op }
  Process.kill("USR1", Process.pid)
  op
end

ready
children = (1..CHILDREN).map do
  fork do
    Said.again
    many
    Said.finish
    sleep(1) # what is not there for the kernel is read by the agent, while there is somebody to read it from
    exit!(0)
  end
end
many
children.each { |each| Process.wait(each) }
Said.finish
