// SPDX-License-Identifier: Apache-2.0
package kernelspan.target;

/** Java that calls native code that calls Java, in a JVM that host.c has made. Arguments: where to say it, turns. */
public final class Calls {
  static native void through(int levels);

  public static void back(int levels) {
    if (levels > 0) {
      through(levels - 1);
    }
    Said.open();
  }

  public static void main(String[] arguments) throws Exception {
    System.out.println("ready");
    System.in.read();
    for (int at = 0; at < Integer.parseInt(arguments[1]); at++) {
      back(at % 4);
    }
    Said.end(arguments[0]);
  }
}
