// SPDX-License-Identifier: Apache-2.0
package kernelspan.target;

import java.nio.charset.StandardCharsets;
import java.util.function.Supplier;

/**
 * Classes that are alike but for their names, each loaded, called and dropped: the JVM gives the memory of one to the next.
 * Arguments: where to say it, how many classes, how often each is called.
 */
public final class Dropped {
  public static class Template000 implements Runnable {
    @Override
    public void run() {
      method000();
    }

    private void method000() {
      Supplier<Integer> made = () -> {
        Said.open();
        return 1;
      };
      made.get();
    }
  }

  private static final class Loader extends Loading {
    private final byte[] code;
    private final String name;

    Loader(byte[] code, String name) {
      this.code = code;
      this.name = name;
    }

    @Override
    byte[] codeOf(String wanted) {
      return wanted.equals(name) ? code : null;
    }
  }

  private static byte[] renamed(byte[] code, String number) {
    String text = new String(code, StandardCharsets.ISO_8859_1);
    return text.replace("Template000", "Template" + number)
        .replace("method000", "method" + number)
        .getBytes(StandardCharsets.ISO_8859_1);
  }

  public static void main(String[] arguments) throws Exception {
    byte[] code = Loading.codeIn("Dropped$Template000.class");
    System.out.println("ready");
    System.in.read();
    for (int at = 1; at <= Integer.parseInt(arguments[1]); at++) {
      String number = String.format("%03d", at % 1000), name = "kernelspan.target.Dropped$Template" + number;
      Runnable made = (Runnable) new Loader(renamed(code, number), name).loadClass(name).getDeclaredConstructor().newInstance();
      for (int turn = 0; turn < Integer.parseInt(arguments[2]); turn++) {
        made.run();
      }
      if (at % 20 == 0) {
        System.gc();
      }
    }
    Said.end(arguments[0]);
  }
}
