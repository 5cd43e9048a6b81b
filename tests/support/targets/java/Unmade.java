// SPDX-License-Identifier: Apache-2.0
package kernelspan.target;

import java.util.function.IntUnaryOperator;

/**
 * Compiled code that becomes invalid while it is on the stack: it relies on there being one implementation of a method, and what it
 * calls loads another one. Again and again, with classes of a loader's own. Arguments: where to say it, how often.
 */
public final class Unmade {
  public abstract static class Base {
    abstract int act(int x);
  }

  public static class One extends Base {
    @Override
    int act(int x) {
      if (x < 0) {
        Base other = new Two();
        Said.open();
        return other.act(x);
      }
      return x + 1;
    }
  }

  public static class Two extends Base {
    @Override
    int act(int x) {
      Said.open();
      return x;
    }
  }

  public static class Outer implements IntUnaryOperator {
    private final Base one = new One();

    private int middle(int x) {
      return one.act(x) + 1;
    }

    private int outer(int x) {
      return middle(x) + 1;
    }

    @Override
    public int applyAsInt(int turns) {
      int sum = 0;
      for (int at = 0; at < turns; at++) {
        sum += outer(at);
      }
      sum += outer(-1);
      Said.open();
      return sum;
    }
  }

  private static final class Loader extends Loading {
    @Override
    byte[] codeOf(String name) {
      return name.startsWith("kernelspan.target.Unmade$") ? codeIn(name.substring(18) + ".class") : null;
    }
  }

  public static void main(String[] arguments) throws Exception {
    System.out.println("ready");
    System.in.read();
    for (int at = 0; at < Integer.parseInt(arguments[1]); at++) {
      Class<?> made = new Loader().loadClass("kernelspan.target.Unmade$Outer");
      IntUnaryOperator outer = (IntUnaryOperator) made.getDeclaredConstructor().newInstance();
      outer.applyAsInt(20000);
    }
    Said.end(arguments[0]);
  }
}
