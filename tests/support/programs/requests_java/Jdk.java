// SPDX-License-Identifier: Apache-2.0
package kernelspan.requests;

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.InputStream;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

/** The JDK's own server. Arguments: a port; `pool`, `same` (handlers leave the work to the pool they run in), `stealing`. */
public final class Jdk {
  private static void answer(HttpExchange exchange, long size) {
    try {
      Requests.Answer answer = Requests.work(exchange.getRequestURI().getPath(), size);
      byte[] text = answer.text.getBytes(StandardCharsets.US_ASCII);
      exchange.sendResponseHeaders(answer.status, text.length);
      exchange.getResponseBody().write(text);
      exchange.close();
    } catch (IOException e) {
      throw new IllegalStateException(e);
    }
  }

  static long drain(InputStream input) throws IOException {
    byte[] into = new byte[8192];
    long size = 0;
    for (int count = input.read(into); count >= 0; count = input.read(into)) {
      size += count;
    }
    return size;
  }

  public static void main(String[] arguments) throws Exception {
    HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[0])), 64);
    ExecutorService pool = arguments[1].equals("stealing") ? Executors.newWorkStealingPool(4) : Executors.newFixedThreadPool(4);
    server.setExecutor(pool);
    boolean hands = !arguments[1].equals("pool");
    server.createContext("/job/", exchange -> {
      long size = drain(exchange.getRequestBody());
      if (hands) {
        CompletableFuture.runAsync(() -> answer(exchange, size), pool);
      } else {
        answer(exchange, size);
      }
    });
    server.start();
  }
}
