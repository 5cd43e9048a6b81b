# SPDX-License-Identifier: Apache-2.0
# Code and classes that are made and dropped all the time, in threads and fibers, so that every address is used again.

require_relative "said"

Said.renew(ARGV[0])
ROUNDS = ARGV[1].to_i

class Host; end
module Nest; end

# Shapes are alike, so that what comes takes the place of what went; names are of the same length.
def make(number)
  name = format("m%05d", number % 100_000)
  Host.class_eval("def #{name}(x)\n" + "\n" * (number % 5) + "  Said.file.sysread(M()) rescue EOFError\n  [x].each { |y| Said.file.sysread(M()) rescue EOFError }\nend", "made#{number % 7}.rb", number % 90 + 1)
  Said.learn_one(Host, name)
  name
end

def one(number)
  name = make(number)
  Host.new.send(name, 1)
  Host.send(:remove_method, name)
  Said.forget(name)
  eval("\n" * (number % 3) + "Said.file.sysread(M()) rescue EOFError; [1].map { Said.file.sysread(M()) rescue EOFError }", binding, "text#{number % 11}.rb")
  Host.send(:define_method, name) { Said.file.sysread(M()) rescue EOFError }
  Host.new.send(name)
  Host.send(:undef_method, name)
end

# A class under a name, and another under a name of the same length right after it.
def of_a_class(number)
  name = format("C%05d", number % 100_000)
  made = Nest.const_set(name, Class.new)
  made.class_eval("def run; Said.file.sysread(M()) rescue EOFError; end\ndef self.run; Said.file.sysread(M()) rescue EOFError; end", "classes.rb", 10)
  Said.learn_one(made, "run")
  Said.learn_one(made.singleton_class, "run")
  made.new.run
  made.run
  Said.forget("run")
  Nest.send(:remove_const, name)
end

def of_a_script(number)
  code = RubyVM::InstructionSequence.compile("#{"\n" * (number % 4)}Said.file.sysread(M()) rescue EOFError\n", "<main>", "script#{number % 13}.rb")
  code.eval
end

# The only strings that are no symbols' are the names of files and of classes within others: theirs are the addresses used again.
def of_a_file(number)
  eval("Said.file.sysread(M()) rescue EOFError", binding, format("/some/where/file%05d.rb", number % 100_000))
end

def lengthy(number)
  name = "n" * (20 + number % 300) + "ü#{number}"
  Host.class_eval("def #{name}; Said.file.sysread(M()) rescue EOFError; end", "/very/#{"long/" * (number % 60)}f.rb", 3)
  Said.learn_one(Host, name)
  Host.new.send(name)
  Host.send(:remove_method, name)
  Said.forget(name)
end

ready
ROUNDS.times do |round|
  number = round * 10
  8.times { |each| one(number + each) }
  4.times do |each|
    of_a_class(number + each)
    2.times { |again| of_a_file(number + each * 2 + again); GC.start }
  end
  of_a_script(number)
  lengthy(number)
  fiber = Fiber.new { one(number + 9); Fiber.yield; Said.file.sysread(M()) rescue EOFError }
  fiber.resume
  fiber.resume
  GC.start(full_mark: round % 4 == 0) if round % 3 == 0
  GC.compact if round % 20 == 19 && GC.respond_to?(:compact)
  next unless round % 10 == 5
  busy = Thread.new { 20.times { |each| eval("def t#{each}; end"); GC.start(full_mark: false) } }
  others = (1..2).map { |each| Thread.new { 5.times { |turn| of_a_script(each * 100 + turn); Said.file.sysread(M("t#{each}")) rescue EOFError } } }
  [busy, *others].each { |each| each.join }
end
Said.finish
