// SPDX-License-Identifier: Apache-2.0
package kernelspan.target;

import java.util.ArrayList;
import java.util.List;

/** Virtual threads (JDK 21 and later), some of which have waited before. Arguments: where to say it, how many. */
public final class Virtual {
  private static int deep(int levels, boolean waits) throws Exception {
    if (levels > 0) {
      return deep(levels - 1, waits) + 1;
    }
    if (waits) {
      Thread.sleep(2);
    }
    Said.open();
    return 0;
  }

  private static void run(int number) {
    try {
      deep(number % 9, number % 2 == 1);
    } catch (Exception e) {
      throw new IllegalStateException(e);
    }
  }

  public static void main(String[] arguments) throws Exception {
    System.out.println("ready");
    System.in.read();
    List<Thread> threads = new ArrayList<>();
    for (int at = 0; at < Integer.parseInt(arguments[1]); at++) {
      int number = at;
      Runnable work = () -> run(number);
      threads.add((Thread) Thread.class.getMethod("startVirtualThread", Runnable.class).invoke(null, work));
    }
    for (Thread thread : threads) {
      thread.join();
    }
    Said.end(arguments[0]);
  }
}
