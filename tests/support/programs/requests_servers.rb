# SPDX-License-Identifier: Apache-2.0
# Servers that answer `/job/N/COUNT` without Rack. Arguments: which, a port.
require "socket"
require_relative "requests"

# One connection's requests, from bytes to answers.
class Connection
  attr_reader :socket, :number, :count, :size
  attr_accessor :done

  def initialize(socket)
    @socket = socket
    @text = +""
  end

  # Whether a request is complete.
  def take(bytes)
    @text << bytes
    head, body = @text.split("\r\n\r\n", 2)
    return false if body.nil?

    @size = head[/^content-length: *(\d+)/i, 1].to_i
    return false if body.size < @size

    _, _, @number, @count = head.split(" ")[1].split("?").first.split("/")
    @last = head.match?(/^connection: *close/i)
    @text = +""
    @done = 0
    true
  end

  def work
    answer(*Requests.work(@number, @count.to_i, @size))
  end

  def answer(status, text)
    @socket.write("HTTP/1.1 #{status} Said\r\nContent-Length: #{text.size}\r\n\r\n#{text}")
    @socket.close if @last
  end

  def finished
    answer(*Requests.work(@number, 0, @size))
  end
end

def serve(socket)
  connection = Connection.new(socket)
  until socket.closed?
    connection.work if connection.take(socket.readpartial(8192))
  end
rescue EOFError
  socket.close
end

# A thread for each connection.
def threads(server)
  loop { Thread.new(server.accept) { |socket| serve(socket) } }
end

# Threads that take one connection after another.
def accepting(server)
  Array.new(8) { Thread.new { loop { serve(server.accept) } } }.each(&:join)
end

# Whoever has read a request leaves it to the pool that it is in itself.
def pool(server)
  jobs = Queue.new
  4.times { Thread.new { loop { jobs.pop.call } } }
  read = lambda do |connection|
    complete = connection.take(connection.socket.readpartial(8192))
    jobs << -> { leave(connection, jobs, read) } if complete
    jobs << -> { read.call(connection) } unless complete
  rescue EOFError
    connection.socket.close
  end
  loop do
    connection = Connection.new(server.accept)
    jobs << -> { read.call(connection) }
  end
end

def leave(connection, jobs, read)
  connection.work
  jobs << -> { read.call(connection) } unless connection.socket.closed?
end

# One thread that works on all by turns, a step of each.
def turns(server)
  connections = {}
  ready = []
  loop do
    found, = IO.select([server, *connections.keys], nil, nil, ready.empty? ? nil : 0)
    found&.each do |each|
      if each == server
        socket = server.accept
        connections[socket] = Connection.new(socket)
      elsif connections[each].take(each.readpartial(8192))
        ready << connections[each]
      end
    rescue EOFError
      connections.delete(each).socket.close
    end
    step(ready, connections)
  end
end

def step(ready, connections)
  connection = ready.shift or return
  if connection.done < connection.count.to_i
    Requests.touch(connection.number, connection.done)
    connection.done += 1
    ready << connection
  else
    connection.finished
    connections.delete(connection.socket) if connection.socket.closed?
  end
end

# A fiber for each connection, in one thread: each lets go of it between its steps.
def fibers(server)
  waiting = {}
  running = []
  loop do
    found, = IO.select([server, *waiting.keys], nil, nil, running.empty? ? nil : 0)
    found&.each { |each| running << (each == server ? fiber_of(server.accept) : waiting.delete(each)) }
    running = running.filter_map do |fiber|
      said = fiber.resume
      waiting[said] = fiber if said.is_a?(Socket) || said.is_a?(TCPSocket)
      fiber if said == :again
    end
  end
end

def fiber_of(socket)
  Fiber.new do
    connection = Connection.new(socket)
    until socket.closed?
      Fiber.yield(socket)
      next unless connection.take(socket.readpartial(8192))

      connection.count.to_i.times do |step|
        Requests.touch(connection.number, step)
        Fiber.yield(:again)
      end
      connection.finished
    end
  rescue EOFError
    socket.close
  end
end

def webrick(port)
  require "webrick"
  server = WEBrick::HTTPServer.new(BindAddress: "127.0.0.1", Port: port, AccessLog: [], Logger: WEBrick::Log.new(File::NULL))
  server.mount_proc("/job") do |request, response|
    _, _, number, count = request.path.split("/")
    response.status, response.body = Requests.work(number, count.to_i, request.body.to_s.size)
  end
  server.start
end

if ARGV[0] == "webrick"
  webrick(ARGV[1].to_i)
else
  send(ARGV[0], TCPServer.new("127.0.0.1", ARGV[1].to_i))
end
