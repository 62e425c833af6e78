//! The time and the randomness of a simulated process. The binary `simulate` puts them in the place
//! of libc's; in every other process they are switched off.
//!
//! Time stands still while anything is left to be done, and jumps to the next timer when nothing
//! is: code takes no time here, only waiting does, and the sync of a disk that is slow.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Wall-clock time at which every simulation begins: 2027-01-15.
pub const EPOCH: Duration = Duration::from_secs(1_800_000_000);

/// Monotonic time at which every simulation begins; not zero, since some code subtracts from it.
const MONOTONIC_START: Duration = Duration::from_secs(1_000);

static ON: AtomicBool = AtomicBool::new(false);
static NOW_NS: AtomicU64 = AtomicU64::new(0);
static RANDOM: AtomicU64 = AtomicU64::new(0);

type Hook = Box<dyn FnMut()>;

thread_local! {
    static BEFORE_TIME_PASSES: RefCell<Option<Hook>> = const { RefCell::new(None) };
}

/// From here on the process lives in simulated time.
pub fn switch_on(seed: u64) {
    RANDOM.store(seed ^ 0x5157_4f52_4154_4521, Ordering::SeqCst);
    ON.store(true, Ordering::SeqCst);
}

/// Whether the process lives in simulated time.
pub fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// True simulated time since the start: no node can read it.
pub fn now() -> Duration {
    Duration::from_nanos(NOW_NS.load(Ordering::Relaxed))
}

/// What a clock of the system shows; `None` for those that are not simulated.
pub fn reading(clock: libc::clockid_t) -> Option<Duration> {
    if !is_on() {
        return None;
    }
    match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => Some(EPOCH + now()),
        libc::CLOCK_MONOTONIC
        | libc::CLOCK_MONOTONIC_COARSE
        | libc::CLOCK_MONOTONIC_RAW
        | libc::CLOCK_BOOTTIME => Some(MONOTONIC_START + now()),
        _ => None,
    }
}

/// The next byte of the process's randomness (SplitMix64, Steele et al. 2014).
pub fn random_byte() -> u8 {
    let state = RANDOM.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)).to_be_bytes()[0]
}

/// Sets what is done each time before time passes: nothing is left to be done at that moment, so
/// what holds between two moments can be checked.
pub fn before_time_passes(hook: Option<Hook>) {
    BEFORE_TIME_PASSES.with(|slot| *slot.borrow_mut() = hook);
}

/// Time passes in the middle of what is being done, for everybody: as if the process was not run.
pub fn hold_up(span: Duration) {
    let ns = u64::try_from(span.as_nanos()).unwrap_or(0);
    NOW_NS.fetch_add(ns, Ordering::Relaxed);
}

/// Nothing is left to be done for so long (milliseconds; `None`: for ever).
pub fn let_time_pass(ms: Option<u64>) {
    BEFORE_TIME_PASSES.with(|slot| {
        if let Ok(mut slot) = slot.try_borrow_mut()
            && let Some(hook) = slot.as_mut()
        {
            hook();
        }
    });
    let Some(ms) = ms else {
        eprintln!("nothing will ever happen again: no task runs and no timer is set");
        std::process::exit(super::EXIT_BROKEN);
    };
    NOW_NS.fetch_add(ms * 1_000_000, Ordering::Relaxed);
}
