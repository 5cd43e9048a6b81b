# SPDX-License-Identifier: Apache-2.0
# Every kind of Ruby frame there is, Ruby 2.7 and later.

require_relative "said"

Said.renew(ARGV[0])
ROUNDS = ARGV[1].to_i

module App
  module Counts
    def counted; Said.file.sysread(M()) rescue EOFError; end
    def self.included(other)
      Said.file.sysread(M()) rescue EOFError
    end
  end

  module Before
    def found(x)
      Said.file.sysread(M()) rescue EOFError
      super
    end
  end

  class Base
    def initialize
      begin Said.file.sysread(M()); rescue EOFError; end
    end

    def found(x)
      Said.file.sysread(M()) rescue EOFError
      x
    end

    def method_missing(name, *more)
      return super unless name.to_s.start_with?("no_")
      Said.file.sysread(M()) rescue EOFError
      name
    end

    def respond_to_missing?(name, all = false)
      name.to_s.start_with?("no_") || super
    end
  end

  class Repo < Base
    include Counts
    include Enumerable
    include Comparable
    prepend Before

    def initialize
      super
      begin
        Said.file.sysread(M())
      rescue EOFError
        begin
          Said.file.sysread(M())
        rescue EOFError
          nil
        ensure
          begin; Said.file.sysread(M()); rescue EOFError; end
        end
      ensure
        look
      end
    end

    def look(n = 0)
      n > 0 ? look(n - 1) : File.exist?("/kernelspan-truth/#{Said.token}/#{M("", "File.exist?")}")
    end

    def search(n)
      return search(n - 1) if n > 0
      [1, 2].each do |x|
        deep(x) { |y| [y].map { |z| [z].each_with_index { |_, _| Said.file.sysread(M()) rescue EOFError } } }
      end
    end

    def deep(x)
      yield x
      given = proc { |y| Said.file.sysread(M()) rescue EOFError }
      given.call(1)
      given.(2)
      lambda { |*| look }.call
      method(:look).to_proc.call(2)
      [3, 1, 2].sort_by { |each| look; each }
      [3, 1, 2].sort { |a, b| look(1); a <=> b }
      [1].each_slice(1) { |each| look }
      {a: 1}.each_pair { |key, value| look }
      [[1, 2]].each { |a, b| look }
      1.upto(2) { look }
      2.times { look }
      loop { look; break }
      tap { look }
      self.then { look }
      instance_eval { look }
      instance_exec(1) { |each| look }
      self.class.class_eval { new_look }
      send(:look)
      public_send(:look)
      __send__(:look, 1)
      catch(:done) { look; throw :done }
      [1, 2].inject(0) { |sum, each| look; sum + each }
      Hash.new { |hash, key| look; hash[key] = 1 }[1]
      "abc".gsub(/b/) { look; "x" }
      "abc".each_char { |c| look }
      map { |each| look }
      include?(9)
      Array.new(2) { look }
      [1, 2].lazy.map { |each| look; each }.to_a
      e = [1, 2].each
      e.next
      Enumerator.new { |y| look; y << 1; look; y << 2 }.each { |each| look }
      ObjectSpace.garbage_collect if x == 9
      self == 3
      self < self.class.allocate
      Kernel.at_exit_look { look }
    end

    def each
      look
      yield 1
      look
    end

    def self.new_look
      File.exist?("/kernelspan-truth/#{Said.token}/#{M("", "File.exist?")}")
    end

    class << self
      def single
        new_look
        [1].each { new_look }
      end
      define_method(:defined_single) { new_look }
    end

    def <=>(other)
      look
      0
    end

    def ==(other)
      look
      true
    end

    def [](index); look; index; end
    def []=(index, value); look; end
    def +(other); look; self; end
    def -@; look; self; end
    def to_s; look; "repo"; end
    def to_str; look; "repo"; end
    def coerce(other) look; [self, self]; end
    def hash; look; 1; end
    def eql?(other); look; true; end
    def name=(value)
      look
    end
    def finally
      yield
    ensure
      look
    end

    define_method(:defined) { |n = 1| look; [n].each { |each| look } }
    define_method(:"odd name é") { look }
    alias_method :other_search, :search
    alias another look
    attr_accessor :plain
    private def hidden; look; end
    protected

    def guarded; look; end

    public

    def all_of_them
      hidden
      guarded
      defined
      defined(2)
      send(:"odd name é")
      another
      other_search(1)
      self[1]
      self[1] = 2
      self + self
      -self
      "#{self}"
      "a" + self
      1 + self
      {self => 1}[self]
      self.name = 2
      finally { look }
      no_such
      found(1)
      counted
      raising
      redone
      thrown
      self.class.single
      self.class.defined_single
      class_in_method
      made
      refined
    end

    def raising
      raise ArgumentError, "no"
    rescue ArgumentError => e
      look
      begin
        raise TypeError
      rescue TypeError
        look
        [1].each { look }
      else
        look
      ensure
        look
      end
    else
      look
    ensure
      [1].each { look }
      look
    end

    def redone
      tries = 0
      begin
        tries += 1
        look
        raise "no" if tries < 2
      rescue RuntimeError
        look
        retry
      end
      while tries < 4
        tries += 1
        next if tries == 3
        look
      end
      for x in [1, 2] do look end
      begin look end until true
      case tries when 4 then look end
      look if true && (look; true)
      x = tries > 2 ? look : nil
      look(
        2
      )
    end

    def thrown
      catch(:x) do
        [1, 2].each do |each|
          begin
            look
            throw :x
          ensure
            look
          end
        end
      end
    end

    def class_in_method
      own = Class.new(Base) do
        def unnamed; Said.file.sysread(M()) rescue EOFError; end
        def self.unnamed_single; Said.file.sysread(M()) rescue EOFError; end
        Said.file.sysread(M()) rescue EOFError
      end
      own.new.unnamed
      own.unnamed_single
      object = Object.new
      def object.singular; Said.file.sysread(M()) rescue EOFError; end
      object.singular
      object.singleton_class.class_eval { define_method(:by_block) { Said.file.sysread(M()) rescue EOFError } }
      object.by_block
      Struct.new(:a) { def struck; Said.file.sysread(M()) rescue EOFError; end }.new(1).struck
      inner = Module.new.const_set(:Inner, Class.new { def temporary; Said.file.sysread(M()) rescue EOFError; end })
      inner.new.temporary
      own.class_eval("def evaluated(x)\n  Said.file.sysread(M()) rescue EOFError\nend", "/given/name.rb", 41)
      own.new.evaluated(1)
      instance_eval("look; [1].each {\n look }")
      eval("look\n\n[1].each { look }", binding, "another é name.rb", 7)
      binding.eval("look")
    end

    using(Module.new { refine(String) { def refined_look(repo) repo.look; end } }) rescue nil
    def made
      name = "made_#{rand(1 << 30)}"
      self.class.class_eval("\n\ndef #{name}\n  look\n  [1].each { look }\nend\n")
      Said.learn_of(self.class)
      send(name)
      self.class.send(:remove_method, name)
      self.class.send(:define_method, name) { look }
      send(name)
      self.class.send(:undef_method, name)
    end

    def refined; end
  end
end

module Kernel
  def self.at_exit_look
    yield
  end
end

def top_level(n)
  Said.file.sysread(M()) rescue EOFError
  top_level(n - 1) if n > 0
end

def threads
  all = (1..3).map do |number|
    Thread.new(number) do |n|
      5.times { Said.file.sysread(M("t#{n}")) rescue EOFError; Thread.pass }
      App::Repo.new.look(n)
    end
  end
  all.each { |each| each.join }
end

def fibers
  both = %w[a b].map do |name|
    Fiber.new do
      3.times { |turn| Said.file.sysread(M()) rescue EOFError; Fiber.yield(turn); suspended }
    end
  end
  3.times { both.each { |each| each.resume }; Said.file.sysread(M()) rescue EOFError }
  numbers = Enumerator.new { |y| 3.times { |i| suspended; y << i } }
  numbers.next
  numbers.next
end

def suspended
  Said.file.sysread(M()) rescue EOFError
  [1].each { Fiber.new { Said.file.sysread(M()) rescue EOFError }.resume }
end

def deepest(n)
  n > 0 ? deepest(n - 1) : (Said.file.sysread(M()) rescue EOFError)
end

# Many instructions, so that the table of lines has more than one block.
body = (1..400).map { |n| "  x = [#{n}, x].max + #{n}\n  Said.file.sysread(M()) rescue EOFError if n == #{n}\n" }.join
eval("def long_one(n)\n  x = 0\n#{body}end", binding, "/made/long.rb", 1)

ready
ROUNDS.times do |round|
  top_level(2)
  repo = App::Repo.new
  repo.search(2)
  repo.all_of_them
  threads
  fibers
  [1, 30, 31, 200, 399, 400].each { |n| long_one(n) }
  deepest(30)
  (Said.file.sysread(M()) rescue EOFError) if round.even?
end
deepest(140)
Said.finish
