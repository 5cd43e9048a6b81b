// SPDX-License-Identifier: Apache-2.0
//! Every kind of call that Rust has: held against what libgcc's unwinder says.

use std::ffi::CString;
use std::hint::black_box;

extern "C" {
    fn said_read();
    fn said_start(arguments: *const *const i8);
    fn said_end();
}

fn read() {
    unsafe { said_read() };
    black_box(());
}

trait Act {
    fn act(&self, n: usize) -> usize;
}

struct One(usize);
struct Two<T>(T);

impl Act for One {
    #[inline(never)]
    fn act(&self, n: usize) -> usize {
        read();
        self.0 + n
    }
}

impl<T: Into<u64> + Copy> Act for Two<T> {
    #[inline(never)]
    fn act(&self, n: usize) -> usize {
        read();
        let value: u64 = self.0.into();
        value as usize + n
    }
}

struct Dropped;

impl Drop for Dropped {
    #[inline(never)]
    fn drop(&mut self) {
        read();
        black_box(());
    }
}

#[inline(never)]
fn panics(n: usize) {
    let _dropped = Dropped; // while the panic is on its way
    if black_box(n) < 1 << 40 {
        std::panic::resume_unwind(Box::new(n));
    }
}

#[inline(never)]
fn caught(n: usize) -> usize {
    let found = std::panic::catch_unwind(|| panics(n)).is_err();
    read();
    found as usize
}

#[inline(never)]
fn sorts(n: usize) -> usize {
    let mut numbers: Vec<usize> = (0..30).map(|i| (i * 7919 + n) % 31).collect();
    numbers.sort_by(|a, b| {
        if *a == 3 {
            read();
        }
        a.cmp(b)
    });
    black_box(numbers[0])
}

#[inline(never)]
fn recursive(depth: usize, n: usize) -> usize {
    let found = match (depth, n % 4) {
        (0, 0) => black_box::<&dyn Act>(&One(1)).act(n),
        (0, 1) => black_box::<&dyn Act>(&Two(7u32)).act(n),
        (0, 2) => caught(n),
        (0, _) => sorts(n),
        _ => recursive(depth - 1, n),
    };
    black_box(found) + 1
}

fn main() {
    let arguments: Vec<CString> = std::env::args().map(|each| CString::new(each).unwrap()).collect();
    let pointers: Vec<*const i8> = arguments.iter().map(|each| each.as_ptr() as *const i8).collect();
    let rounds: usize = arguments[3].to_str().unwrap().parse().unwrap();
    unsafe { said_start(pointers.as_ptr()) };
    let other = std::thread::spawn(move || {
        for n in 0..rounds {
            black_box(recursive(n % 20, n));
        }
    });
    for n in 0..rounds {
        black_box(recursive(n % 30, n));
    }
    other.join().unwrap();
    unsafe { said_end() };
}
