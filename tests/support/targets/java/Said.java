// SPDX-License-Identifier: Apache-2.0
package kernelspan.target;

import java.io.File;
import java.io.FileInputStream;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.io.PrintWriter;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Random;

/**
 * Says of every operation where it was: each opens a file that does not exist, and the exception bears the stack of that very
 * call, the JDK's own frames included, with the lines that the JVM gives them.
 */
public final class Said {
  private static final String TOKEN = String.format("%012x", new Random().nextLong() & 0xffffffffffffL);
  private static final List<String> said = new ArrayList<>();
  private static final Map<String, Integer> stacks = new HashMap<>();
  private static final LinkedHashSet<String> files = new LinkedHashSet<>();
  private static int number;

  public static void open() {
    int mine;
    synchronized (said) {
      mine = ++number;
    }
    try {
      new FileInputStream("/kernelspan-truth/" + TOKEN + "/" + mine).close();
    } catch (FileNotFoundException e) {
      note(mine, e.getStackTrace());
    } catch (IOException e) {
      throw new IllegalStateException(e);
    }
  }

  private static void note(int mine, StackTraceElement[] trace) {
    StringBuilder stack = new StringBuilder("[");
    synchronized (said) {
      for (StackTraceElement each : trace) {
        String name = each.getClassName(), file = each.getFileName() == null ? "" : each.getFileName();
        int dot = name.lastIndexOf('.');
        if (!file.isEmpty()) {
          file = name.substring(0, dot + 1).replace('.', '/') + file;
        }
        files.add(file);
        stack.append(stack.length() > 1 ? "," : "");
        stack.append("[").append(quoted(name)).append(",").append(quoted(each.getMethodName())).append(",");
        stack.append(quoted(file)).append(",").append(Math.max(each.getLineNumber(), 0)).append("]");
      }
      String text = stack.append("]").toString();
      Integer known = stacks.get(text);
      if (known == null) {
        stacks.put(text, known = stacks.size());
      }
      said.add("[" + mine + ",\"\"," + known + "]");
    }
  }

  public static void end(String out) throws IOException {
    String[] texts = new String[stacks.size()];
    for (Map.Entry<String, Integer> each : stacks.entrySet()) {
      texts[each.getValue()] = each.getKey();
    }
    List<String> apps = new ArrayList<>();
    for (String file : files) {
      apps.add(quoted(file) + ":" + file.startsWith("kernelspan/target/"));
    }
    File made = new File(out + "." + TOKEN);
    try (PrintWriter to = new PrintWriter(made, "UTF-8")) {
      to.print("{\"token\":\"" + TOKEN + "\",\"pid\":0,\"stacks\":[" + String.join(",\n", texts) + "],");
      to.print("\"said\":[" + String.join(",", said) + "],\"app\":{" + String.join(",", apps) + "}}");
    }
    made.renameTo(new File(made + ".json"));
    System.in.read(); // compiled code can only be named as long as it is there
  }

  private static String quoted(String text) {
    StringBuilder quoted = new StringBuilder("\"");
    for (char each : text.toCharArray()) {
      quoted.append(each < ' ' || each > '~' || each == '"' || each == '\\' ? String.format("\\u%04x", (int) each) : each);
    }
    return quoted.append('"').toString();
  }
}
