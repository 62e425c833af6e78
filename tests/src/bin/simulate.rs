//! The simulator's process: `simulate --seed 7` runs one seed, `simulate --seeds 1,2 --fresh 3`
//! several, each in a process of its own (rule X1). See `docs/simulator.md`.
//!
//! What the process must not decide by itself is taken over here, below every library: the
//! functions of libc through which the standard library, tokio and all others ask for the time,
//! for randomness and for something to happen. They are symbols of this binary alone; the linker
//! prefers them to those of the shared libc, and `dlsym` finds them too.

#![expect(unsafe_code, reason = "functions of libc are replaced by our own")]
#![allow(missing_docs, reason = "they are documented in libc")]

use std::ffi::{c_int, c_uint, c_void};

use quorate_tests::sim::{self, system};

/// # Safety
/// As in libc.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> c_int {
    match system::reading(clock) {
        Some(reading) => {
            let seconds = libc::time_t::try_from(reading.as_secs()).unwrap_or(libc::time_t::MAX);
            // SAFETY: the caller gives a pointer to a timespec that can be written.
            unsafe {
                (*time).tv_sec = seconds;
                (*time).tv_nsec = libc::c_long::from(reading.subsec_nanos());
            }
            0
        }
        // SAFETY: the same call, handed on.
        None => c_int_of(unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) }),
    }
}

/// # Safety
/// As in libc.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(into: *mut c_void, len: usize, flags: c_uint) -> isize {
    if !system::is_on() {
        // SAFETY: the same call, handed on.
        let got = unsafe { libc::syscall(libc::SYS_getrandom, into, len, flags) };
        return isize::try_from(got).unwrap_or(-1);
    }
    for at in 0..len {
        // SAFETY: the caller gives `len` bytes that can be written.
        unsafe { into.cast::<u8>().add(at).write(system::random_byte()) };
    }
    isize::try_from(len).unwrap_or(isize::MAX)
}

/// # Safety
/// As in libc.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn epoll_wait(
    poll: c_int,
    events: *mut libc::epoll_event,
    events_max: c_int,
    timeout_ms: c_int,
) -> c_int {
    let timeout_now = if system::is_on() { 0 } else { timeout_ms };
    // SAFETY: the same call, handed on, with another timeout.
    let got = c_int_of(unsafe {
        libc::syscall(libc::SYS_epoll_wait, poll, events, events_max, timeout_now)
    });
    if got == 0 && system::is_on() && timeout_ms != 0 {
        // Nothing is left to be done at this moment.
        system::let_time_pass(u64::try_from(timeout_ms).ok());
    }
    got
}

fn c_int_of(result: libc::c_long) -> c_int {
    c_int::try_from(result).unwrap_or(-1)
}

fn main() -> std::process::ExitCode {
    sim::main(std::env::args().skip(1).collect())
}
