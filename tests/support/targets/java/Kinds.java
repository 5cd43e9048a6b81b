// SPDX-License-Identifier: Apache-2.0
package kernelspan.target;

import java.lang.invoke.MethodHandle;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.MethodType;
import java.lang.reflect.Method;
import java.security.AccessController;
import java.security.PrivilegedAction;
import java.util.Arrays;
import java.util.Comparator;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.function.IntUnaryOperator;
import java.util.function.Supplier;
import java.util.stream.IntStream;

/**
 * Every way to call and to be called that matters for a stack. Arguments: where to say it, turns, threads one after another, and, if
 * garbage is to be made meanwhile, some word.
 */
public final class Kinds {
  interface Shape {
    int area(int size);

    default int twice(int size) {
      int once = area(size);
      return once + area(size + 1);
    }
  }

  static final class Square implements Shape {
    @Override
    public int area(int size) {
      Said.open();
      return size * size;
    }
  }

  enum Way implements Supplier<String> {
    ONE {
      @Override
      public String get() {
        Said.open();
        return "one";
      }
    },
    OTHER {
      @Override
      public String get() {
        return String.valueOf(
            deep(
                3));
      }
    }
  }

  static class Made {
    final int size;

    Made(int size) {
      this.size = size;
      Said.open();
    }

    synchronized int locked() {
      Said.open();
      synchronized (this) {
        Said.open();
      }
      return size;
    }
  }

  static final class Greeting {
    static int count;

    static {
      Said.open();
      count = 1;
    }
  }

  static int deep(int levels) {
    if (levels > 0) {
      return deep(levels - 1) + 1;
    }
    Said.open();
    return 0;
  }

  static void lambdas() {
    Runnable plain = () -> Said.open();
    plain.run();
    Runnable reference = Said::open;
    reference.run();
    IntUnaryOperator nested = x -> {
      Supplier<Integer> inner = () -> deep(2) + x;
      return inner.get();
    };
    nested.applyAsInt(1);
    IntStream.range(0, 3).map(x -> deep(1) + x).sum();
    Integer[] numbers = {2, 1};
    Arrays.sort(numbers, new Comparator<Integer>() {
      @Override
      public int compare(Integer left, Integer right) {
        Said.open();
        return left - right;
      }
    });
  }

  public static int reflected(int size) {
    Said.open();
    return size;
  }

  static void reflection() throws Throwable {
    Method method = Kinds.class.getMethod("reflected", int.class);
    method.invoke(null, 1);
    MethodHandle handle =
        MethodHandles.lookup().findStatic(Kinds.class, "reflected", MethodType.methodType(int.class, int.class));
    int found = (int) handle.invokeExact(2);
    handle.invoke((short) found);
    Made.class.getDeclaredConstructor(int.class).newInstance(3);
  }

  @SuppressWarnings({"deprecation", "removal"})
  static void privileged() {
    AccessController.doPrivileged((PrivilegedAction<Integer>) () -> deep(1));
  }

  static void exceptions() {
    try {
      try {
        throw new IllegalStateException("one");
      } finally {
        Said.open();
      }
    } catch (IllegalStateException e) {
      Said.open();
      try {
        Object nothing = null;
        nothing.hashCode();
      } catch (NullPointerException other) {
        Said.open();
      }
    }
  }

  static String switches(String text) {
    switch (text) {
      case "one":
        Said.open();
        return "1";
      case "two":
        Said.open();
        return "2";
      default:
        Said.open();
        return text;
    }
  }

  private static int small(int x) {
    return smaller(x) + 1;
  }

  private static int smaller(int x) {
    if (x % 64 == 0) {
      Said.open();
    }
    return x;
  }

  /** Small methods that are inlined when they are compiled, also in a loop that is compiled while it runs. */
  static int inlined(int turns) {
    int sum = 0;
    for (int i = 0; i < turns; i++) {
      sum += small(i);
    }
    return sum;
  }

  static void turn(int at) throws Throwable {
    deep(at % 30);
    new Square().twice(at);
    new Made(at).locked();
    Way.ONE.get();
    Way.OTHER.get();
    lambdas();
    reflection();
    privileged();
    exceptions();
    switches("one");
    switches("two");
    switches("none" + at);
    inlined(640);
    if (at % 100 == 90) {
      inlined(30000);
    }
  }

  static void threads(int count) throws Exception {
    for (int i = 0; i < count; i++) {
      int size = i % 5;
      Thread thread = new Thread(() -> deep(size), "thread " + i);
      thread.start();
      thread.join();
    }
    ExecutorService pool = Executors.newFixedThreadPool(4);
    for (int i = 0; i < count; i++) {
      int size = i % 7;
      pool.submit((Callable<Integer>) () -> deep(size));
    }
    pool.shutdown();
    while (!pool.isTerminated()) {
      Thread.sleep(1);
    }
  }

  static volatile Object kept;

  static void makeGarbage() {
    Thread thread = new Thread(() -> {
      Object[] some = new Object[64];
      for (int at = 0; ; at++) {
        some[at % some.length] = kept = new byte[10000 + at % 1000];
      }
    });
    thread.setDaemon(true);
    thread.start();
  }

  public static void main(String[] arguments) throws Throwable {
    System.out.println("ready");
    System.in.read();
    if (arguments.length > 3) {
      makeGarbage();
    }
    int count = Greeting.count;
    for (int at = 0; at < Integer.parseInt(arguments[1]); at++) {
      turn(at);
    }
    threads(Integer.parseInt(arguments[2]) * count);
    Said.end(arguments[0]);
  }
}
