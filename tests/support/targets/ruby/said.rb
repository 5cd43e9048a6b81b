# SPDX-License-Identifier: Apache-2.0
# The beginning of every Ruby target, as said.py is of Python's: an operation is `op(M())` on one line. M notes the stack of
# that line, as caller_locations has it, and gives a number; the read asks for so many bytes. Ruby 2.7 and later.
#
# A row is [whose, label, file, line]: `whose` is the method with its class where there is one of that name, file and lines;
# of a C function the file is "". What is C's is told by where it is: caller_locations gives it the place of its caller.

module Said
  LOCK = Mutex.new
  class << self
    attr_reader :file, :token, :methods

    def renew(out)
      @out = out
      @methods = {}
      @c_names = {}
      @by_name = {}
      again
    end

    # In a child: a file and numbers of its own.
    def again
      @token = Random.new_seed.to_s(16)[-12..-1].rjust(12, "0")
      @said = []
      @stacks = {}
      @number = 0
      @file = File.open("#{@out}.#{@token}.reads", File::RDWR | File::CREAT)
    end

    def begin
      @said = []
      learn
    end

    # All methods that there are: M itself must not look for them, there are thousands.
    def learn
      ObjectSpace.each_object(Module) do |owner|
        [owner, owner.singleton_class].each { |each| learn_of(each) }
      end
    end

    def learn_of(owner)
      (owner.instance_methods(false) + owner.private_instance_methods(false)).each { |name| learn_one(owner, name) }
    end

    def learn_one(owner, name)
      found = owner.instance_method(name) rescue return
      return unless found.owner.equal?(owner)
      place = found.source_location
      name = found.original_name.to_s
      whose = shown(owner, name)
      (@c_names[name] ||= []) << whose if place.nil? || place[0].start_with?("<internal:")
      return unless place
      (@methods[[copy(place[0]), name]] ||= []) << [place[1], whose]
      (@by_name[name] ||= []) << whose
    end

    def forget(name)
      @by_name.delete(name)
      @methods.delete_if { |(_, each), _| each == name }
    end

    def shown(owner, name)
      if owner.singleton_class?
        whose = owner.inspect[/\A#<Class:([A-Z].*)>\z/, 1]
        whose ? "#{whose}.#{name}" : name
      else
        called = Module.instance_method(:name).bind(owner).call
        called && called.match?(/\A[A-Z]/) ? "#{called}##{name}" : name  # not #<Module:0x1>::Inner, which may change
      end
    end

    def note(context, locations, by)
      rows = rows_of(locations)
      rows.unshift([[by], by[/[.#](.*)\z/, 1] || by, "", nil]) if by
      LOCK.synchronize do
        @number += 1
        place = @stacks[rows] ||= @stacks.size
        @said << [@number, context, place]
        @number
      end
    end

    def note_as(number, context, locations, by)
      rows = rows_of(locations).unshift([[by], by[/[.#](.*)\z/, 1], "", nil])
      @said << [number, context, @stacks[rows] ||= @stacks.size]
    end

    # Text of its own: to keep Ruby's strings, or what shares their text, would keep their addresses from being used again.
    def copy(text)
      text.unpack("C*").pack("C*").force_encoding(text.encoding)
    end

    def rows_of(locations)
      locations.each_with_index.map do |at, index|
        outer = locations[index + 1]
        base = at.base_label
        alike = outer ? at.path == outer.path && at.lineno == outer.lineno : !@methods.key?([at.path, base])
        if alike && @c_names.key?(base) && at.label.match?(/\A(?:.*[#.])?#{Regexp.escape(base)}\z/m)
          [@c_names[base], copy(at.label), "", nil]
        else
          before = (@methods[[at.path, base]] || []).select { |first, _| first <= at.lineno }
          whose = before.select { |first, _| first == before.map(&:first).max }.map(&:last)
          # Code that eval gives a file of its own is the method's around it, whichever that is of that name.
          [whose.empty? ? @by_name[base] || [] : whose, copy(at.label), copy(at.path), at.lineno]
        end
      end
    end

    def finish
      found = { "pid" => Process.pid, "token" => @token, "stacks" => @stacks.keys, "said" => @said, "app" => {} }
      found["description"] = RUBY_DESCRIPTION
      name = "#{@out}.#{@token}"
      File.write(name, json(found))
      File.rename(name, "#{name}.json")
    end

    # Not the library's: a Ruby without extensions has none.
    def json(value)
      case value
      when Hash then "{#{value.map { |key, each| "#{json(key)}:#{json(each)}" }.join(",")}}"
      when Array then "[#{value.map { |each| json(each) }.join(",")}]"
      when String
        text = value.dup.force_encoding("UTF-8").scrub("?")
        "\"#{text.gsub(/["\\\x00-\x1f]/) { |each| format("\\u%04x", each.ord) }}\""
      when nil then "null"
      else value.to_s
      end
    end
  end
end

# The number of an operation of the C function `by` on the line that calls this.
def M(context = "", by = "IO#sysread")
  Said.note(context, caller_locations(1), by)
end

def ready
  Said.begin
  $stdout.syswrite("ready\n")
  $stdin.sysread(1)
rescue EOFError
  nil
end
