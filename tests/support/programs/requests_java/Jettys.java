// SPDX-License-Identifier: Apache-2.0
package kernelspan.requests;

import java.io.IOException;
import java.io.UncheckedIOException;
import javax.servlet.AsyncContext;
import javax.servlet.ServletException;
import javax.servlet.http.HttpServletRequest;
import javax.servlet.http.HttpServletResponse;
import org.eclipse.jetty.server.Request;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;
import org.eclipse.jetty.server.handler.AbstractHandler;
import org.eclipse.jetty.util.thread.QueuedThreadPool;

/** A handler on Jetty 9. Arguments: a port; `blocking`, or `async` (its pool's other threads do the work). */
public final class Jettys extends AbstractHandler {
  private final boolean leaves;

  private Jettys(boolean leaves) {
    this.leaves = leaves;
  }

  @Override
  public void handle(String target, Request base, HttpServletRequest request, HttpServletResponse response)
      throws IOException, ServletException {
    base.setHandled(true);
    long size = Jdk.drain(request.getInputStream());
    if (!leaves) {
      answer(target, response, size);
      return;
    }
    AsyncContext later = base.startAsync();
    later.start(() -> {
      try {
        answer(target, response, size);
        later.complete();
      } catch (IOException e) {
        throw new UncheckedIOException(e);
      }
    });
  }

  private static void answer(String target, HttpServletResponse response, long size) throws IOException {
    Requests.Answer answer = Requests.work(target, size);
    response.setStatus(answer.status);
    response.setContentLength(answer.text.length());
    response.getOutputStream().print(answer.text);
  }

  public static void main(String[] arguments) throws Exception {
    Server server = new Server(new QueuedThreadPool(10, 4));
    ServerConnector connector = new ServerConnector(server, 1, 1);
    connector.setHost("127.0.0.1");
    connector.setPort(Integer.parseInt(arguments[0]));
    server.addConnector(connector);
    server.setHandler(new Jettys(arguments[1].equals("async")));
    server.start();
    server.join();
  }
}
