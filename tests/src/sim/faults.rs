//! What goes wrong, drawn from the seed: cut links (one way too), bad weather, crashes in the
//! middle of what a node is doing, moved leads, clocks that jump, slow disks, ranges that split
//! under the load.

use std::sync::Arc;
use std::time::Duration;

use quorate_proto::NodeId;
use quorate_shard::range::META_RANGE;
use rand::Rng as _;
use rand::rngs::StdRng;

use super::bank::Bank;
use super::clock::OFFSET_MAX;
use super::machine::Machine;
use super::net::{Net, Weather};
use super::runtime;
use super::system;
use super::trace::Trace;

/// Longest time between two faults.
const GAP_MAX_MS: u64 = 900;
/// Now and then nothing happens for a while.
const CALM: Duration = Duration::from_secs(2);
/// Longest time the bank rests.
const REST_MAX_MS: u64 = 5_000;
/// A link is cut for a moment,
const CUT_SHORT_MS: u64 = 600;
/// or for up to so long.
const CUT_LONG_MS: u64 = 6_000;
/// How far a clock leaves the bound: up to a second no new leader begins below what was read;
/// beyond five nothing is served.
const WILD_MS: [i64; 6] = [300, 1_000, 1_500, 2_000, 3_000, 10_000];
/// A clock is beyond the bound for up to so long.
const WILD_MAX_MS: u64 = 4_000;
/// Longest sync of a slow disk.
const SLOW_SYNC_MS: [u64; 4] = [10, 60, 400, 2_000];
/// A disk is slow for up to so long.
const SLOW_MAX_MS: u64 = 5_000;
/// Splits end with so many ranges,
const RANGES_MAX: usize = 12;
/// but where they are the point of it with so many.
const RANGES_IN_A_STORM_MAX: usize = 40;
/// Longest pause between two splits then.
const STORM_GAP_MAX_MS: u64 = 300;
/// A crash that is set strikes within so many operations of disk and network.
const OPERATIONS_MAX: u64 = 120;

/// What goes wrong in a run.
pub struct Faults {
    /// The machines it goes wrong with.
    pub machines: Vec<Arc<Machine>>,
    /// What is between them.
    pub net: Arc<Net>,
    /// What they are kept busy with.
    pub bank: Arc<Bank>,
    /// Where it is written down.
    pub trace: Arc<Trace>,
    /// Where it is drawn from.
    pub rng: StdRng,
    /// Clocks also leave the bound.
    pub wild: bool,
}

impl Faults {
    /// Lets things go wrong until that time.
    pub async fn rage(&mut self, until: Duration) {
        while system::now() < until {
            let gap = self.rng.random_range(1..GAP_MAX_MS);
            runtime::pause(Duration::from_millis(gap)).await;
            match self.rng.random_range(0..100) {
                0..=24 => self.cut_links(),
                25..=38 => self.change_weather(),
                39..=46 => self.crash_soon(),
                47..=49 => self.crash_now(),
                50 => self.crash_all(),
                51..=54 => self.restart(),
                55..=57 => self.restart_beside_a_cut(),
                58..=59 => self.rest(),
                60..=71 => self.move_lead(),
                72..=84 if self.wild && self.rng.random_range(0..3) == 0 => self.leap_clock(),
                72..=84 => self.jump_clock(),
                85..=90 => self.split(),
                91..=94 => self.slow_disk(),
                _ => runtime::pause(CALM).await,
            }
        }
    }

    /// Everything is well again.
    pub fn cease(&self) {
        self.trace.event("the faults end");
        self.net.mend_all();
        self.net.set_weather(Weather::FAIR);
        for life in self.machines.iter().filter_map(|machine| machine.life()) {
            life.slow_down(Duration::ZERO, 0);
        }
    }

    fn draw_machine(&mut self) -> Arc<Machine> {
        let at = self.rng.random_range(0..self.machines.len());
        self.machines[at].clone()
    }

    /// Cuts one machine off, or one link, in both directions or in one: for a moment, or for longer
    /// than an election takes.
    fn cut_links(&mut self) {
        let one = self.draw_machine().number;
        let mut others: Vec<usize> = self.machines.iter().map(|m| m.number).collect();
        others.retain(|other| *other != one);
        if self.rng.random_range(0..2) == 0 {
            let spared = self.rng.random_range(0..others.len());
            others.remove(spared);
        }
        let direction = self.rng.random_range(0..4);
        let mut links = Vec::new();
        for other in others {
            if direction != 1 {
                links.push((one, other));
            }
            if direction != 2 {
                links.push((other, one));
            }
        }
        let cut_ms = match self.rng.random_range(0..2) {
            0 => self.rng.random_range(20..CUT_SHORT_MS),
            _ => self.rng.random_range(CUT_SHORT_MS..CUT_LONG_MS),
        };
        self.cut_for(links, cut_ms);
    }

    fn cut_for(&self, links: Vec<(usize, usize)>, cut_ms: u64) {
        self.trace.event(format_args!("cut for {cut_ms} ms: {links:?}"));
        links.iter().for_each(|(from, to)| self.net.cut(*from, *to));
        let (net, trace) = (self.net.clone(), self.trace.clone());
        runtime::spawn(async move {
            runtime::pause(Duration::from_millis(cut_ms)).await;
            links.iter().for_each(|(from, to)| net.mend(*from, *to));
            trace.event(format_args!("mended: {links:?}"));
        });
    }

    fn change_weather(&mut self) {
        let rng = &mut self.rng;
        let weather = match rng.random_range(0..3) {
            0 => Weather::FAIR,
            _ => {
                let delay_max = [3, 10, 60, 250][rng.random_range(0..4)];
                Weather {
                    delay_min: Duration::from_millis(1),
                    delay_max: Duration::from_millis(delay_max),
                    loss_per_mille: [0, 5, 30, 150][rng.random_range(0..4)],
                    late_per_mille: [0, 5, 20, 60][rng.random_range(0..4)],
                    disorder_per_mille: [0, 0, 10, 50][rng.random_range(0..4)],
                    twice_per_mille: [0, 0, 10, 50][rng.random_range(0..4)],
                }
            }
        };
        self.trace.event(format_args!("{weather:?}"));
        self.net.set_weather(weather);
    }

    fn crash_soon(&mut self) {
        let operations = self.rng.random_range(1..OPERATIONS_MAX);
        if let Some(life) = self.draw_machine().life() {
            self.trace.event(format_args!("m{} crashes after {operations}", life.machine));
            life.end_after(operations);
        }
    }

    fn crash_now(&mut self) {
        if let Some(life) = self.draw_machine().life() {
            life.end(&self.trace, "between two steps");
        }
    }

    fn crash_all(&mut self) {
        for life in self.machines.iter().filter_map(|machine| machine.life()) {
            life.end(&self.trace, "with all others");
        }
    }

    fn restart(&mut self) {
        if let Some(life) = self.draw_machine().life() {
            life.leave.cancel();
        }
    }

    fn rest(&mut self) {
        let ms = self.rng.random_range(500..REST_MAX_MS);
        self.bank.rest_for(ms);
    }

    /// Two machines lose sight of each other, and when one of them looks for votes the third has
    /// just restarted and knows of no leader: what rule L2 waits for.
    fn restart_beside_a_cut(&mut self) {
        let (one, third) = (self.draw_machine().number, self.draw_machine());
        let mut others = self.machines.iter().map(|m| m.number);
        let other = others.rfind(|m| *m != one && *m != third.number);
        let Some(other) = other.filter(|_| one != third.number) else { return };
        if self.rng.random_range(0..2) == 0 {
            // Or the one that is cut off has missed something and gets no votes.
            self.rest();
        }
        self.cut_for(vec![(one, other), (other, one)], CUT_LONG_MS);
        let soon = Duration::from_millis(self.rng.random_range(300..2_500));
        runtime::spawn(async move {
            runtime::pause(soon).await;
            if let Some(life) = third.life() {
                life.leave.cancel();
            }
        });
    }

    fn move_lead(&mut self) {
        let machine = self.draw_machine();
        let to = NodeId(self.draw_machine().number as u64);
        let pick = self.rng.random_range(0..64);
        let Some(up) = machine.up() else { return };
        let led: Vec<_> =
            up.node.ranges().replicas().into_iter().filter(|replica| replica.serves()).collect();
        if led.is_empty() || to == up.node.id() {
            return;
        }
        let range = led[pick % led.len()].range;
        let trace = self.trace.clone();
        trace.event(format_args!("the lead of {range} shall move to {to}"));
        runtime::spawn(async move {
            let moved = up.node.raft().transfer(range, to);
            match runtime::unless(up.life.over.cancelled(), moved).await {
                Some(Ok(())) => trace.event(format_args!("the lead of {range} moved to {to}")),
                Some(Err(why)) => trace.event(format_args!("the lead of {range} stays: {why}")),
                None => {}
            }
        });
    }

    fn jump_clock(&mut self) {
        let most = i64::try_from(OFFSET_MAX.as_micros()).unwrap_or(0);
        let offset_us = self.rng.random_range(-most..=most);
        let machine = self.draw_machine();
        self.trace.event(format_args!("m{} is off by {offset_us} us", machine.number));
        machine.clock.jump(offset_us);
    }

    /// One clock leaves the bound for a while, ahead or behind; the others stay.
    fn leap_clock(&mut self) {
        let machine = self.draw_machine();
        if self.machines.iter().any(|other| other.clock.is_wild()) {
            return;
        }
        let off = WILD_MS[self.rng.random_range(0..WILD_MS.len())] * 1_000;
        let ahead = self.rng.random_range(0..2) == 0;
        let offset_us = if ahead { off } else { -off };
        let lasts = Duration::from_millis(self.rng.random_range(50..WILD_MAX_MS));
        let back_to = self.rng.random_range(-50_000..50_000);
        let trace = self.trace.clone();
        trace.event(format_args!("m{} is off by {offset_us} us for {lasts:?}", machine.number));
        machine.clock.leap(offset_us);
        if self.rng.random_range(0..2) == 0 {
            // Nobody tells it for a while.
            let cut_ms = self.rng.random_range(500..CUT_SHORT_MS * 5);
            let others = self.machines.iter().map(|m| m.number).filter(|m| *m != machine.number);
            let links = others.flat_map(|m| [(machine.number, m), (m, machine.number)]).collect();
            self.cut_for(links, cut_ms);
        }
        runtime::spawn(async move {
            runtime::pause(lasts).await;
            machine.clock.jump(back_to);
            trace.event(format_args!("m{} is off by {back_to} us again", machine.number));
        });
    }

    /// A sync takes long for a while: longer than a lease, or just longer than a message.
    fn slow_disk(&mut self) {
        let most_ms = SLOW_SYNC_MS[self.rng.random_range(0..SLOW_SYNC_MS.len())];
        let lasts = Duration::from_millis(self.rng.random_range(200..SLOW_MAX_MS));
        if let Some(life) = self.draw_machine().life() {
            let machine = life.machine;
            self.trace.event(format_args!("syncs of m{machine}: {most_ms} ms, for {lasts:?}"));
            life.slow_down(lasts, most_ms);
        }
    }

    fn split(&mut self) {
        if ranges_of(&self.machines) < RANGES_MAX {
            runtime::spawn(self.bank.clone().split_somewhere());
        }
    }

    /// Beside everything else, one split after the other.
    pub fn split_until(
        &self,
        mut rng: StdRng,
        until: Duration,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (machines, bank) = (self.machines.clone(), self.bank.clone());
        self.trace.event("ranges split all the time");
        async move {
            while system::now() < until && ranges_of(&machines) < RANGES_IN_A_STORM_MAX {
                runtime::pause(Duration::from_millis(rng.random_range(1..STORM_GAP_MAX_MS))).await;
                bank.clone().split_somewhere().await;
            }
        }
    }
}

/// Ranges of users on the machine with the most.
fn ranges_of(machines: &[Arc<Machine>]) -> usize {
    let ranges = |machine: &Arc<Machine>| {
        let up = machine.up()?;
        Some(up.node.ranges().replicas().iter().filter(|r| r.range != META_RANGE).count())
    };
    machines.iter().filter_map(ranges).max().unwrap_or(0)
}
