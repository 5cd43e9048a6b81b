// SPDX-License-Identifier: Apache-2.0
package kernelspan.requests;

import java.net.InetSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import java.util.ArrayDeque;
import java.util.Deque;

/** A loop of nobody's library that works on all requests by turns, a step of each. Argument: a port. */
public final class Loop {
  private static final class Job {
    private SocketChannel channel;
    private String text = "";
    private String[] steps;
    private int size;
    private int done;

    /** Whether the request is complete. */
    private boolean read() throws Exception {
      ByteBuffer into = ByteBuffer.allocate(8192);
      if (channel.read(into) < 0) {
        channel.close();
        return false;
      }
      text += new String(into.array(), 0, into.position(), StandardCharsets.US_ASCII);
      int end = text.indexOf("\r\n\r\n");
      if (end < 0) {
        return false;
      }
      int at = text.toLowerCase().indexOf("content-length: ");
      size = at < 0 ? 0 : Integer.parseInt(text.substring(at + 16, text.indexOf("\r\n", at)));
      if (text.length() < end + 4 + size) {
        return false;
      }
      steps = text.split(" ")[1].split("\\?")[0].split("/");
      text = "";
      done = 0;
      return true;
    }

    /** Whether it is done with this step. */
    private boolean step() throws Exception {
      if (done < Integer.parseInt(steps[3])) {
        Requests.touch(steps[2], done++);
        return false;
      }
      channel.write(ByteBuffer.wrap(Requests.work("/job/" + steps[2] + "/0", size).bytes()));
      return true;
    }
  }

  public static void main(String[] arguments) throws Exception {
    Selector selector = Selector.open();
    ServerSocketChannel server = ServerSocketChannel.open();
    server.bind(new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[0])), 64);
    server.configureBlocking(false);
    server.register(selector, SelectionKey.OP_ACCEPT);
    Deque<Job> ready = new ArrayDeque<>();
    while (true) {
      selector.select(ready.isEmpty() ? 0 : 1);
      for (SelectionKey key : selector.selectedKeys()) {
        if (key.isAcceptable()) {
          Job job = new Job();
          job.channel = server.accept();
          job.channel.configureBlocking(false);
          job.channel.register(selector, SelectionKey.OP_READ, job);
        } else if (((Job) key.attachment()).read()) {
          ready.add((Job) key.attachment());
        }
      }
      selector.selectedKeys().clear();
      Job job = ready.poll();
      if (job != null && !job.step()) {
        ready.add(job);
      }
    }
  }
}
