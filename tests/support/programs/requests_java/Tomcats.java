// SPDX-License-Identifier: Apache-2.0
package kernelspan.requests;

import jakarta.servlet.AsyncContext;
import jakarta.servlet.ServletException;
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.io.UncheckedIOException;
import org.apache.catalina.Context;
import org.apache.catalina.startup.Tomcat;

/** A servlet on an embedded Tomcat. Arguments: a port; `blocking`, or `async` (its pool's other threads do the work). */
public final class Tomcats extends HttpServlet {
  private final boolean leaves;

  private Tomcats(boolean leaves) {
    this.leaves = leaves;
  }

  @Override
  protected void service(HttpServletRequest request, HttpServletResponse response) throws ServletException, IOException {
    long size = Jdk.drain(request.getInputStream());
    if (!leaves) {
      answer(request, response, size);
      return;
    }
    AsyncContext later = request.startAsync();
    later.start(() -> {
      try {
        answer(request, response, size);
        later.complete();
      } catch (IOException e) {
        throw new UncheckedIOException(e);
      }
    });
  }

  private static void answer(HttpServletRequest request, HttpServletResponse response, long size) throws IOException {
    Requests.Answer answer = Requests.work(request.getRequestURI(), size);
    response.setStatus(answer.status);
    response.setContentLength(answer.text.length());
    response.getOutputStream().print(answer.text);
  }

  public static void main(String[] arguments) throws Exception {
    Tomcat tomcat = new Tomcat();
    tomcat.setBaseDir(System.getProperty("java.io.tmpdir"));
    tomcat.setHostname("127.0.0.1");
    tomcat.setPort(Integer.parseInt(arguments[0]));
    tomcat.getConnector().setProperty("maxThreads", "4");
    tomcat.getConnector().setProperty("address", "127.0.0.1");
    Context context = tomcat.addContext("", null);
    Tomcat.addServlet(context, "job", new Tomcats(arguments[1].equals("async"))).setAsyncSupported(true);
    context.addServletMappingDecoded("/job/*", "job");
    tomcat.start();
    tomcat.getServer().await();
  }
}
