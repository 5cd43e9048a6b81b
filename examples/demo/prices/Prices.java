// SPDX-License-Identifier: Apache-2.0
package shop;

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.InputStream;
import java.net.HttpURLConnection;
import java.net.InetSocketAddress;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.Executors;

/**
 * Says what a thing costs: GET /price/NAME. The longer its name, the dearer; and dearer still where few are left, which the
 * stock service knows. Nothing in it knows of tracing.
 *
 * <p>Argument: the stock service's host:port. Prints the port that it listens on.
 */
public final class Prices {
  private static final int FEW = 5;

  private final String stock;

  private Prices(String stock) {
    this.stock = stock;
  }

  /** How many of it there are, says the stock service. */
  int inStock(String name) throws IOException {
    URI address = URI.create("http://" + stock + "/stock/" + name);
    HttpURLConnection connection = (HttpURLConnection) address.toURL().openConnection();
    try (InputStream body = connection.getInputStream()) {
      return Integer.parseInt(new String(body.readAllBytes(), StandardCharsets.UTF_8).trim());
    }
  }

  /** In cents. */
  int priceOf(String name) throws IOException {
    int cents = 100 * name.length();
    return inStock(name) < FEW ? cents + cents / 10 : cents;
  }

  /** Answers GET /price/NAME. */
  void answer(HttpExchange exchange) throws IOException {
    String path = exchange.getRequestURI().getPath();
    int cents = priceOf(path.substring(path.lastIndexOf('/') + 1));
    byte[] body = ("{\"cents\": " + cents + "}").getBytes(StandardCharsets.UTF_8);
    exchange.getResponseHeaders().set("Content-Type", "application/json");
    exchange.sendResponseHeaders(200, body.length);
    exchange.getResponseBody().write(body);
    exchange.close();
  }

  public static void main(String[] arguments) throws IOException {
    Prices prices = new Prices(arguments[0]);
    HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", 0), 0);
    server.createContext("/price/", prices::answer);
    server.setExecutor(Executors.newFixedThreadPool(4));
    server.start();
    System.out.println(server.getAddress().getPort());
  }
}
