// SPDX-License-Identifier: Apache-2.0
package kernelspan.requests;

import java.io.BufferedInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;

/** A thread for each connection. Arguments: a port; `threads`, or `virtual` (JDK 21). */
public final class Sockets {
  static String line(InputStream input) throws IOException {
    StringBuilder found = new StringBuilder();
    for (int next = input.read(); next >= 0 && next != '\n'; next = input.read()) {
      if (next != '\r') {
        found.append((char) next);
      }
    }
    return found.toString();
  }

  private static void serve(Socket socket) {
    try (Socket closing = socket) {
      InputStream input = new BufferedInputStream(closing.getInputStream());
      for (String first = line(input); !first.isEmpty(); first = line(input)) {
        int size = 0;
        boolean last = false;
        for (String next = line(input); !next.isEmpty(); next = line(input)) {
          String low = next.toLowerCase();
          size = low.startsWith("content-length:") ? Integer.parseInt(low.substring(15).trim()) : size;
          last |= low.equals("connection: close");
        }
        for (int left = size; left > 0; left--) {
          input.read();
        }
        String target = first.split(" ")[1];
        closing.getOutputStream().write(Requests.work(target.split("\\?")[0], size).bytes());
        if (last) {
          return;
        }
      }
    } catch (IOException e) {
      throw new IllegalStateException(e);
    }
  }

  public static void main(String[] arguments) throws Exception {
    ServerSocket server = new ServerSocket(Integer.parseInt(arguments[0]), 64, InetAddress.getByName("127.0.0.1"));
    while (true) {
      Socket socket = server.accept();
      socket.setTcpNoDelay(true);
      Runnable work = () -> serve(socket);
      if (arguments[1].equals("virtual")) {
        Thread.class.getMethod("startVirtualThread", Runnable.class).invoke(null, work);
      } else {
        new Thread(work).start();
      }
    }
  }
}
