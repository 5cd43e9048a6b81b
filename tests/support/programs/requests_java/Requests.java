// SPDX-License-Identifier: Apache-2.0
package kernelspan.requests;

import java.io.File;

/** What the handlers of Java's servers do: operations on files named after the request's number, with waits between. */
final class Requests {
  private Requests() {}

  static void touch(String number, int step) {
    new File("/kernelspan-request/" + number + "/" + step).length();
  }

  /** Answers `/job/N/COUNT` as requests_app.py does. */
  static Answer work(String path, long size) {
    String[] steps = path.split("/");
    String number = steps[2];
    for (int step = 0; step < Integer.parseInt(steps[3]); step++) {
      touch(number, step);
      if (step % 2 == 1) {
        pause(Integer.parseInt(number) % 3);
      }
    }
    return new Answer(Integer.parseInt(number) % 10 == 7 ? 500 : 200, number + " " + size);
  }

  static void pause(int milliseconds) {
    try {
      Thread.sleep(milliseconds);
    } catch (InterruptedException e) {
      throw new IllegalStateException(e);
    }
  }

  static final class Answer {
    final int status;
    final String text;

    Answer(int status, String text) {
      this.status = status;
      this.text = text;
    }

    /** As it goes over a connection that is kept. */
    byte[] bytes() {
      String head = "HTTP/1.1 " + status + " Said\r\nContent-Length: " + text.length() + "\r\n\r\n";
      return (head + text).getBytes(java.nio.charset.StandardCharsets.US_ASCII);
    }
  }
}
