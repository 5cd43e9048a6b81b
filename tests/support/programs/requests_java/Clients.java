// SPDX-License-Identifier: Apache-2.0
package kernelspan.requests;

import java.io.IOException;
import java.net.HttpURLConnection;
import java.net.URI;
import java.net.URL;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.ArrayList;
import java.util.List;

/**
 * Asks a server `/WAY/N` from several threads at once, each by a function of its own, once it says that it is ready.
 * Arguments: a port, how often.
 */
public final class Clients {
  interface Way {
    void ask(String base, int number) throws Exception;
  }

  static void byConnection(String base, int number) throws IOException {
    HttpURLConnection made = (HttpURLConnection) new URL(base + "/byConnection/" + number).openConnection();
    Jdk.drain(made.getInputStream());
  }

  static void byPost(String base, int number) throws IOException {
    HttpURLConnection made = (HttpURLConnection) new URL(base + "/byPost/" + number).openConnection();
    made.setDoOutput(true);
    made.getOutputStream().write(new byte[number]);
    Jdk.drain(made.getInputStream());
  }

  static void byClient(HttpClient client, String base, int number) throws Exception {
    HttpRequest request = HttpRequest.newBuilder(URI.create(base + "/byClient/" + number)).build();
    client.send(request, HttpResponse.BodyHandlers.ofString());
  }

  static boolean ready(String base) throws IOException {
    new java.io.File("/kernelspan-ready").length();
    HttpURLConnection made = (HttpURLConnection) new URL(base + "/ready/0").openConnection();
    return made.getResponseCode() == 200;
  }

  public static void main(String[] arguments) throws Exception {
    while (!ready("http://127.0.0.1:" + arguments[0])) {
      Requests.pause(50);
    }
    HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
    Way[] ways = {Clients::byConnection, Clients::byPost, (base, number) -> byClient(client, base, number)};
    List<Thread> threads = new ArrayList<>();
    for (Way way : ways) {
      Thread thread = new Thread(() -> {
        for (int number = 0; number < Integer.parseInt(arguments[1]); number++) {
          try {
            way.ask("http://127.0.0.1:" + arguments[0], number);
          } catch (Exception e) {
            throw new IllegalStateException(e);
          }
        }
      });
      thread.start();
      threads.add(thread);
    }
    for (Thread thread : threads) {
      thread.join();
    }
  }
}
