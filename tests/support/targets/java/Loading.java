// SPDX-License-Identifier: Apache-2.0
package kernelspan.target;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;

/** A class loader with classes of its own, of which others may have the same ones again. */
class Loading extends ClassLoader {
  Loading() {
    super(Loading.class.getClassLoader());
  }

  /** What a class of this name is made of; null: it is the parent's. */
  byte[] codeOf(String name) {
    return null;
  }

  @Override
  protected Class<?> loadClass(String name, boolean resolve) throws ClassNotFoundException {
    Class<?> found = findLoadedClass(name);
    byte[] code = found == null ? codeOf(name) : null;
    return found != null ? found : code != null ? defineClass(name, code, 0, code.length) : super.loadClass(name, resolve);
  }

  static byte[] codeIn(String file) {
    ByteArrayOutputStream found = new ByteArrayOutputStream();
    try (InputStream from = Loading.class.getResourceAsStream(file)) {
      for (int each = from.read(); each >= 0; each = from.read()) {
        found.write(each);
      }
    } catch (IOException e) {
      throw new IllegalStateException(e);
    }
    return found.toByteArray();
  }
}
