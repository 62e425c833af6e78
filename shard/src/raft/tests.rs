//! Tests of the driver: whole clusters on manual clocks.

mod harness;
mod members;
mod real;

use std::time::Duration;

use quorate_proto::{NodeId, PeerId, RangeId, Timestamp};
use quorate_txn::mistakes::Mistake;

use self::harness::{Cluster, RANGE, descriptor};
use super::config::*;
use super::handle::Input;
use super::machine::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn one_three_and_five_replicas_elect_and_replicate() {
    for n in [1, 3, 5] {
        let mut cluster = Cluster::new(n, n);
        for i in 0..20 {
            cluster.write(RANGE, &format!("k{i}"), &format!("v{i}"));
        }
        for node in 1..=n {
            cluster.wait_value(node, "k19", "v19");
        }
    }
}

/// L2, L3: nothing is served before the wait is over, no proposal taken before the physical clock
/// has passed the floor that the wait ended with.
#[test]
fn new_leader_serves_after_one_lease_and_writes_after_one_clock_offset() {
    let mut cluster = Cluster::empty(3, 7);
    cluster.create(descriptor(RANGE, &[1, 2, 3]));
    let mut leader = 0;
    cluster.wait("an election is won", |c| {
        leader = (1..=3)
            .find(|id| c.nodes[id].handle().lease(RANGE).is_some_and(|l| l.leader))
            .unwrap_or(0);
        leader != 0
    });
    assert_eq!(cluster.propose(leader, RANGE, "a=1"), Err(ProposeError::NotYet));
    let waited = cluster.wait("it serves", |c| c.nodes[&leader].serves(RANGE));
    assert!(waited >= LEADER_WAIT - TICK, "served after {waited:?}");
    assert_eq!(cluster.propose(leader, RANGE, "a=1"), Err(ProposeError::NotYet));
    let lease = cluster.nodes[&leader].handle().lease(RANGE).unwrap();
    cluster.run(Duration::from_millis(300));
    cluster.propose(leader, RANGE, "a=1").unwrap();
    let roles = cluster.nodes[&leader].seen(RANGE, |seen| seen.roles.clone());
    let kinds: Vec<_> = roles.iter().map(std::mem::discriminant).collect();
    assert_eq!(kinds.len(), 3, "{roles:?}");
    assert!(matches!(
        roles[..],
        [RoleEvent::Elected { .. }, RoleEvent::CaughtUp { .. }, RoleEvent::Serving {
            max_read_ts,
            handed_over: None,
            ..
        }] if max_read_ts == lease.propose_after && !max_read_ts.is_zero()
    ));
}

#[test]
fn killed_leader_is_followed_and_nothing_acknowledged_is_lost() {
    for seed in 0..5 {
        let mut cluster = Cluster::new(3, seed);
        let mut written = 0;
        for round in 0..3 {
            for _ in 0..5 {
                cluster.write(RANGE, &format!("k{written}"), &format!("v{written}"));
                written += 1;
            }
            let leader = cluster.leader(RANGE).unwrap();
            if round == 1 {
                cluster.flush(leader);
            }
            cluster.kill(leader);
            let gap = cluster.wait("another serves", |c| c.leader(RANGE).is_some());
            assert!(gap < 5 * SECOND, "no leader for {gap:?}");
            cluster.write(RANGE, &format!("k{written}"), &format!("v{written}"));
            written += 1;
            cluster.start(leader);
            for i in 0..written {
                cluster.wait_value(leader, &format!("k{i}"), &format!("v{i}"));
            }
        }
    }
}

#[test]
fn all_replicas_killed_at_once_come_back_with_everything_acknowledged() {
    for seed in 10..15 {
        let mut cluster = Cluster::new(3, seed);
        for i in 0..30 {
            cluster.write(RANGE, &format!("k{i}"), "v");
            if i == 10 {
                cluster.flush(1 + seed % 3);
            }
        }
        for node in 1..=3 {
            cluster.kill(node);
        }
        for node in 1..=3 {
            cluster.start(node);
        }
        let gap = cluster.wait("the range serves again", |c| c.leader(RANGE).is_some());
        assert!(gap <= 3 * SECOND, "a restart took {gap:?}");
        for node in 1..=3 {
            for i in 0..30 {
                cluster.wait_value(node, &format!("k{i}"), "v");
            }
        }
    }
}

/// L1, L2: `Cluster::settle` fails if two nodes could serve at the same moment.
#[test]
fn partitioned_leaders_lease_ends_before_another_serves() {
    for seed in 20..30 {
        let mut cluster = Cluster::new(3, seed);
        let old = cluster.leader(RANGE).unwrap();
        let term = cluster.nodes[&old].handle().lease(RANGE).unwrap().term;
        for other in (1..=3).filter(|other| *other != old) {
            cluster.router.cut(NodeId(old), NodeId(other));
        }
        let until_end = cluster.wait("the old lease ends", |c| !c.nodes[&old].serves(RANGE));
        assert!(until_end <= LEASE, "{until_end:?}");
        let gap = cluster.wait("another serves", |c| c.leader(RANGE).is_some());
        assert!(until_end + gap < 6 * SECOND);
        assert_ne!(cluster.leader(RANGE), Some(old));
        // The old one cannot commit, and gives up the term by itself.
        let _ = cluster.propose(old, RANGE, "lost=1");
        cluster.wait("the old leader steps down", |c| {
            !c.nodes[&old].handle().lease(RANGE).unwrap().leader
        });
        cluster.router.heal();
        cluster.write(RANGE, "after", "1");
        cluster.wait_value(old, "after", "1");
        assert!(cluster.nodes[&old].value("lost").is_none());
        let lost = cluster.nodes[&old].seen(RANGE, |seen| {
            seen.roles.iter().any(|r| matches!(r, RoleEvent::Lost { term: t, .. } if *t == term))
        });
        assert!(lost);
    }
}

/// L2: restarted followers have forgotten their leader and vote at once, within its lease.
#[test]
fn leader_elected_by_restarted_followers_waits_out_the_old_lease() {
    let mut elected_within_lease = 0;
    for seed in 300..312 {
        let mut cluster = Cluster::new(3, seed);
        let old = cluster.leader(RANGE).unwrap();
        for other in (1..=3).filter(|other| *other != old) {
            cluster.router.cut(NodeId(old), NodeId(other));
            cluster.kill(other);
            cluster.start(other);
        }
        for _ in 0..80 {
            cluster.run(Duration::from_millis(10));
            let other_leads = (1..=3).filter(|other| *other != old).any(|other| {
                cluster.nodes[&other].handle().lease(RANGE).is_some_and(|lease| lease.leader)
            });
            if other_leads && cluster.nodes[&old].serves(RANGE) {
                elected_within_lease += 1;
                break;
            }
        }
        cluster.wait("another serves", |c| c.leader(RANGE).is_some_and(|now| now != old));
    }
    assert!(elected_within_lease > 3, "the danger was met {elected_within_lease} times only");
}

/// Messages pass in one direction only: the leader hears nobody and must not keep its lease.
#[test]
fn lease_is_not_renewed_by_sending_alone() {
    let mut cluster = Cluster::new(3, 31);
    let old = cluster.leader(RANGE).unwrap();
    for other in (1..=3).filter(|other| *other != old) {
        cluster.router.cut_one_way(NodeId(other), NodeId(old));
    }
    let until_end = cluster.wait("the lease ends", |c| !c.nodes[&old].serves(RANGE));
    assert!(until_end <= LEASE);
    cluster.run(5 * SECOND);
    cluster.router.heal();
    cluster.write(RANGE, "a", "1");
}

/// L2's exception: the successor of exactly the next term need not wait.
#[test]
fn transfer_hands_over_without_the_wait() {
    let mut cluster = Cluster::new(3, 40);
    cluster.write(RANGE, "a", "1");
    let old = cluster.leader(RANGE).unwrap();
    let to = 1 + old % 3;
    let handle = cluster.nodes[&old].handle();
    cluster.drive(async move { handle.transfer(RANGE, NodeId(to)).await }).unwrap();
    let gap = cluster.wait("the other serves", |c| c.nodes[&to].serves(RANGE));
    assert!(gap < Duration::from_millis(300), "{gap:?}");
    let serving = cluster.nodes[&to].seen(RANGE, |seen| *seen.roles.last().unwrap());
    let RoleEvent::Serving { max_read_ts, propose_after, handed_over: Some(given), .. } = serving
    else {
        panic!("{serving:?}");
    };
    assert_eq!((max_read_ts, propose_after), (Timestamp(99), Timestamp::ZERO));
    assert_eq!(given.max_read_ts, Timestamp(99));
    assert_eq!(cluster.metric_of(old, "transfers"), 1);
    cluster.write(RANGE, "b", "2");
}

/// A hand-over spares only the very next term the wait.
#[test]
fn hand_over_that_nobody_took_spares_no_later_term() {
    let mut cluster = Cluster::new(3, 41);
    let old = cluster.leader(RANGE).unwrap();
    let to = 1 + old % 3;
    cluster.propose_handover_and_cut(old, to);
    let term = cluster.nodes[&old].handle().lease(RANGE).unwrap().term;
    assert!(!cluster.nodes[&old].serves(RANGE), "the lease was given up for the term");
    cluster.router.heal();
    cluster.wait("somebody serves again", |c| c.leader(RANGE).is_some());
    let leader = cluster.leader(RANGE).unwrap();
    let serving = cluster.nodes[&leader].seen(RANGE, |seen| *seen.roles.last().unwrap());
    let RoleEvent::Serving { term: new, handed_over, .. } = serving else { panic!("{serving:?}") };
    assert!(new > term);
    assert_eq!(handed_over.is_some(), new == term + 1, "term {term} then {new}");
    cluster.write(RANGE, "b", "2");
}

/// L2: the term after the next one is spared nothing, although the hand-over is in its log.
#[test]
fn hand_over_spares_the_very_next_term_only() {
    let mut cluster = Cluster::new(3, 42);
    cluster.write(RANGE, "a", "1");
    let old = cluster.leader(RANGE).unwrap();
    let term = cluster.nodes[&old].handle().lease(RANGE).unwrap().term;
    let to = 1 + old % 3;
    let handle = cluster.nodes[&old].handle();
    cluster.drive(async move { handle.transfer(RANGE, NodeId(to)).await }).unwrap();
    cluster.wait("the hand-over is applied everywhere", |c| {
        (1..=3).all(|id| {
            let seen = |seen: &mut harness::Seen| {
                seen.applied.values().any(|(_, data)| data == b"handover")
            };
            c.nodes[&id].seen(RANGE, seen)
        })
    });
    cluster.kill(to);
    cluster.wait("another serves", |c| c.leader(RANGE).is_some());
    let leader = cluster.leader(RANGE).unwrap();
    let serving = cluster.nodes[&leader].seen(RANGE, |seen| *seen.roles.last().unwrap());
    let RoleEvent::Serving { term: new, handed_over, .. } = serving else { panic!("{serving:?}") };
    assert!(new > term + 1, "{term} was handed over to {}", term + 1);
    assert_eq!(handed_over, None);
}

/// The lease is given up before another leads: nobody would serve if that one were not there.
#[test]
fn a_lead_is_not_handed_to_who_does_not_answer() {
    // It is noticed at once when a connection breaks, and by its silence else.
    for breaks in [true, false] {
        let mut cluster = Cluster::new(3, 43);
        cluster.write(RANGE, "a", "1");
        let leader = cluster.leader(RANGE).unwrap();
        let (dead, well) = (1 + leader % 3, 1 + (leader + 1) % 3);
        let term = cluster.nodes[&leader].handle().lease(RANGE).unwrap().term;
        cluster.kill(dead);
        if breaks {
            cluster.nodes[&leader].handle().unreachable(NodeId(dead));
        } else {
            cluster.run(LEASE);
        }
        let handle = cluster.nodes[&leader].handle();
        let refused = cluster.drive(async move { handle.transfer(RANGE, NodeId(dead)).await });
        assert!(matches!(refused, Err(ChangeError::NotNow(_))), "{refused:?}");
        cluster.write(RANGE, "a", "2");
        assert_eq!(cluster.nodes[&leader].handle().lease(RANGE).unwrap().term, term);
        let handle = cluster.nodes[&leader].handle();
        cluster.drive(async move { handle.transfer(RANGE, NodeId(well)).await }).unwrap();
    }
}

#[test]
fn lagging_replica_catches_up_by_snapshot() {
    let mut cluster = Cluster::new(3, 50);
    cluster.write(RANGE, "gone", "soon");
    let leader = cluster.leader(RANGE).unwrap();
    let away = 1 + leader % 3;
    cluster.wait_value(away, "gone", "soon");
    cluster.kill(away);
    for i in 0..30 {
        cluster.write(RANGE, &format!("k{i}"), "v");
    }
    cluster.cut_logs();
    cluster.start(away);
    cluster.wait("a snapshot is installed", |c| c.metric_of(away, "snapshots_installed") == 1);
    cluster.wait_value(away, "k29", "v");
    cluster.wait_value(away, "gone", "soon");
    cluster.write(RANGE, "more", "1");
    cluster.wait_value(away, "more", "1");
    // Durable at once: a crash now keeps it, without the log before it (rule S4).
    cluster.kill(away);
    assert_eq!(cluster.nodes[&away].value("k29").unwrap(), "v");
    cluster.start(away);
    cluster.wait_value(away, "more", "1");
}

/// S4: a crash between the mark and its clearing is redone at start.
#[test]
fn half_installed_snapshot_is_redone_at_start() {
    use crate::engine::install::{Install, InstallStep, install};
    use crate::engine::{Engine as _, KeySpan};
    use crate::log::{LogStore as _, Truncated};
    use prost::Message as _;
    let mut cluster = Cluster::new(3, 51);
    for i in 0..5 {
        cluster.write(RANGE, &format!("k{i}"), "v");
    }
    let leader = cluster.leader(RANGE).unwrap();
    let away = 1 + leader % 3;
    let source = &cluster.nodes[&leader];
    let out = cluster.dir.path().join("made");
    std::fs::create_dir_all(&out).unwrap();
    let view = source.engine.snapshot();
    let files = source.engine.export(&*view, &KeySpan::default(), &out).unwrap();
    let mut state = cluster.state(leader, RANGE).unwrap();
    let at = Truncated { index: state.applied_index, term: state.applied_term };
    state.safe_point = 5;
    let job = Install {
        range: RANGE,
        span: KeySpan::default(),
        files: files.into_iter().map(|file| (file.cf, file.path)).collect(),
        state: state.encode_to_vec().into(),
        at,
    };
    drop(view);
    cluster.kill(away);
    let (log, engine) = (&cluster.nodes[&away].log, &cluster.nodes[&away].engine);
    let dies = std::panic::AssertUnwindSafe(|| {
        let mut die = |step| assert_ne!(step, InstallStep::Ingested, "the crash");
        install(&**engine, &**log, &job, log.hard_state(RANGE).unwrap(), &mut die)
    });
    std::panic::catch_unwind(dies).unwrap_err();
    let log = log.clone();
    cluster.kill(away);
    cluster.start(away);
    assert_eq!(cluster.nodes[&away].value("k4").unwrap(), "v");
    assert_eq!(cluster.state(away, RANGE).unwrap().safe_point, 5);
    assert_eq!(log.truncated(RANGE).unwrap(), at);
    cluster.write(RANGE, "more", "1");
    cluster.wait_value(away, "more", "1");
}

/// L6: idle groups cost one heartbeat per pair, keep their lease, and wake for traffic.
#[test]
fn idle_groups_go_quiet_keep_their_lease_and_wake() {
    let mut cluster = Cluster::new(3, 70);
    cluster.write(RANGE, "a", "1");
    cluster.wait("all replicas are quiet", |c| (1..=3).all(|node| c.quiet(node, RANGE)));
    let leader = cluster.leader(RANGE).unwrap();
    let (messages, woken) = (cluster.sum("messages_sent"), cluster.sum("groups_woken"));
    for _ in 0..500 {
        cluster.run(Duration::from_millis(20));
        assert_eq!(cluster.leader(RANGE), Some(leader));
    }
    assert_eq!(cluster.sum("messages_sent"), messages, "a quiet group sends nothing");
    assert_eq!(cluster.sum("groups_woken"), woken);
    let token = cluster.propose(leader, RANGE, "b=2").unwrap();
    let took = cluster.wait("it commits", |c| c.acknowledged(leader, RANGE, token));
    assert!(took < TICK, "{took:?}");
    cluster.wait("quiet again", |c| (1..=3).all(|node| c.quiet(node, RANGE)));
}

#[test]
fn quiet_groups_leader_is_missed_and_followed() {
    for seed in 71..76 {
        let mut cluster = Cluster::new(3, seed);
        cluster.wait("all replicas are quiet", |c| (1..=3).all(|node| c.quiet(node, RANGE)));
        let leader = cluster.leader(RANGE).unwrap();
        cluster.kill(leader);
        let gap = cluster.wait("another serves", |c| c.leader(RANGE).is_some());
        assert!(gap < 6 * SECOND, "{gap:?}");
        cluster.start(leader);
        cluster.write(RANGE, "a", "1");
        cluster.wait_value(leader, "a", "1");
    }
}

/// A quiet leader cut off from its followers loses its lease in time, too.
#[test]
fn quiet_leaders_lease_ends_when_the_pair_is_cut() {
    for seed in 76..81 {
        let mut cluster = Cluster::new(3, seed);
        cluster.wait("all replicas are quiet", |c| (1..=3).all(|node| c.quiet(node, RANGE)));
        let old = cluster.leader(RANGE).unwrap();
        for other in (1..=3).filter(|other| *other != old) {
            cluster.router.cut(NodeId(old), NodeId(other));
        }
        let until_end = cluster.wait("the lease ends", |c| !c.nodes[&old].serves(RANGE));
        assert!(until_end <= LEASE, "{until_end:?}");
        cluster.wait("the missed answer wakes the group", |c| !c.quiet(old, RANGE));
        cluster.wait("another serves", |c| c.leader(RANGE).is_some());
        cluster.router.heal();
        cluster.write(RANGE, "a", "1");
        cluster.wait_value(old, "a", "1");
    }
}

/// L2: a leader that has not applied the first entry of its own term serves nothing, however long
/// it has waited.
#[test]
fn leader_that_has_not_applied_its_own_term_serves_nothing() {
    let mut cluster = Cluster::new(1, 83);
    let driver = cluster.nodes.get_mut(&1).unwrap().driver.as_mut().unwrap();
    let mut workers = driver.workers.iter_mut().map(|(worker, _)| worker);
    let worker = workers.find(|worker| worker.groups.contains_key(&RANGE)).unwrap();
    let (node, now) = (worker.node.clone(), worker.now());
    let group = worker.groups.get_mut(&RANGE).unwrap();
    let term = group.term();
    let lead = group.lead.as_mut().unwrap();
    (lead.caught_up, lead.serving) = (false, false);
    group.state.applied_term = term - 1;
    group.serve_if_due(&node, now);
    assert!(!group.lead.as_ref().unwrap().serving);
    group.state.applied_term = term;
    group.serve_if_due(&node, now);
    assert!(group.lead.as_ref().unwrap().serving);
}

/// A restarted follower knows nothing of quiet: the pair's heartbeat is not equal, the group wakes.
#[test]
fn restarted_follower_of_a_quiet_group_is_found() {
    let mut cluster = Cluster::new(3, 82);
    cluster.write(RANGE, "a", "1");
    cluster.wait("all replicas are quiet", |c| (1..=3).all(|node| c.quiet(node, RANGE)));
    let leader = cluster.leader(RANGE).unwrap();
    let other = 1 + leader % 3;
    cluster.kill(other);
    cluster.start(other);
    cluster.wait_value(other, "a", "1");
    assert_eq!(cluster.leader(RANGE), Some(leader), "no election was needed");
}

/// One sync for everything that is ready: also for many proposals to many groups.
#[test]
fn one_pass_syncs_once_for_all_groups() {
    let mut cluster = Cluster::new(1, 90);
    let mut ranges = vec![RANGE];
    for n in 0..9_u64 {
        let right = RangeId(18 + 16 * n);
        let key = format!("{}", 9 - n);
        let at = cluster.wait_writable(RANGE);
        cluster.propose(at, RANGE, &format!("split:{key}:{}:{}", right.0, 900 + n)).unwrap();
        cluster.settle();
        ranges.push(right);
    }
    for range in &ranges {
        cluster.wait_writable(*range);
    }
    let (syncs, passes) = (cluster.sum("log_syncs"), cluster.sum("passes"));
    for i in 0..200 {
        for range in &ranges {
            cluster.propose(1, *range, &format!("x{i}={i}")).unwrap();
        }
    }
    cluster.settle();
    assert_eq!(cluster.sum("log_syncs"), syncs + 1);
    assert!(cluster.sum("passes") > passes);
    assert!(cluster.sum("log_syncs") <= cluster.sum("passes"));
}

#[test]
fn split_right_half_serves_at_once_where_the_left_leads() {
    let mut cluster = Cluster::new(3, 100);
    cluster.write(RANGE, "a", "1");
    cluster.write(RANGE, "z", "1");
    let leader = cluster.leader(RANGE).unwrap();
    let right = RangeId(3);
    cluster.propose(leader, RANGE, "split:m:3:301,302,303").unwrap();
    let gap = cluster.wait("the right half serves", |c| c.leader(right).is_some());
    assert!(gap < Duration::from_millis(300), "{gap:?}");
    assert_eq!(cluster.leader(right), Some(leader));
    let serving = cluster.nodes[&leader].seen(right, |seen| *seen.roles.last().unwrap());
    assert!(matches!(serving, RoleEvent::Serving { max_read_ts: Timestamp(77), .. }));
    cluster.write(right, "y", "2");
    cluster.write(RANGE, "b", "2");
    for node in 1..=3 {
        cluster.wait_value(node, "y", "2");
        cluster.wait_value(node, "b", "2");
        let left = cluster.state(node, RANGE).unwrap().descriptor.unwrap();
        assert_eq!((&left.end[..], left.epoch.unwrap().version), (&b"m"[..], 2));
        let right = cluster.state(node, right).unwrap().descriptor.unwrap();
        assert_eq!((&right.start[..], right.replicas[0].peer_id), (&b"m"[..], 301));
    }
}

#[test]
fn split_is_redone_by_replay_with_what_the_right_half_wrote() {
    for seed in 101..106 {
        let mut cluster = Cluster::new(3, seed);
        let leader = cluster.wait_writable(RANGE);
        cluster.propose(leader, RANGE, "split:m:3:301,302,303").unwrap();
        cluster.write(RangeId(3), "y", "2");
        cluster.write(RANGE, "b", "2");
        cluster.flush(1);
        cluster.write(RangeId(3), "z", "3");
        for node in 1..=3 {
            cluster.kill(node);
        }
        for node in 1..=3 {
            cluster.start(node);
        }
        for node in 1..=3 {
            for (key, value) in [("y", "2"), ("b", "2"), ("z", "3")] {
                cluster.wait_value(node, key, value);
            }
        }
        cluster.write(RangeId(3), "x", "4");
    }
}

/// A replica that slept through a split gets both halves without being made over the old one.
#[test]
fn replica_that_missed_a_split_gets_both_halves() {
    for cut in [false, true] {
        let mut cluster = Cluster::new(3, 110);
        cluster.write(RANGE, "z", "1");
        let leader = cluster.leader(RANGE).unwrap();
        let away = 1 + leader % 3;
        cluster.kill(away);
        cluster.propose(leader, RANGE, "split:m:3:301,302,303").unwrap();
        for i in 0..10 {
            cluster.write(RangeId(3), &format!("z{i}"), "2");
            cluster.write(RANGE, &format!("a{i}"), "2");
        }
        if cut {
            cluster.cut_logs();
        }
        cluster.start(away);
        cluster.wait_value(away, "z9", "2");
        cluster.wait_value(away, "a9", "2");
        let left = cluster.state(away, RANGE).unwrap().descriptor.unwrap();
        assert_eq!(&left.end[..], b"m");
        cluster.write(RangeId(3), "z", "3");
        cluster.wait_value(away, "z", "3");
    }
}

/// T3: a node whose clock is off gives up its leases at once and stands for nothing.
#[test]
fn node_that_may_not_lead_steps_down() {
    let mut cluster = Cluster::new(3, 120);
    let old = cluster.leader(RANGE).unwrap();
    cluster.nodes[&old].handle().set_may_lead(false);
    cluster.run(Duration::from_millis(200));
    assert!(!cluster.nodes[&old].serves(RANGE));
    cluster.wait("another serves", |c| c.leader(RANGE).is_some());
    assert_ne!(cluster.leader(RANGE), Some(old));
}

#[test]
fn proposals_of_another_term_or_to_a_follower_are_refused() {
    let mut cluster = Cluster::new(3, 130);
    let leader = cluster.wait_writable(RANGE);
    let follower = 1 + leader % 3;
    let refused = cluster.propose(follower, RANGE, "a=1");
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: Some(NodeId(leader)) }));
    let handle = cluster.nodes[&leader].handle();
    let term = handle.lease(RANGE).unwrap().term;
    let refused = handle.propose(RANGE, term - 1, 1, Vec::new());
    assert!(matches!(refused, Err(ProposeError::NotLeader { .. })));
    let refused = handle.propose(RangeId(9), 1, 1, Vec::new());
    assert_eq!(refused, Err(ProposeError::NoReplica));
}

/// Random crashes, partitions and writes: what was acknowledged is there in the end, everywhere.
#[test]
fn random_faults_lose_nothing_acknowledged() {
    use rand::{Rng as _, SeedableRng as _};
    for seed in 200..210 {
        let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
        let mut cluster = Cluster::new(3, seed);
        let mut asked: Vec<(u64, u64, u32)> = Vec::new();
        let mut kept = Vec::new();
        let mut down = None;
        for step in 0..150_u32 {
            match rng.random_range(0..12) {
                0 if down.is_none() => {
                    let node = rng.random_range(1..=3);
                    cluster.kill(node);
                    asked.retain(|(at, ..)| *at != node);
                    down = Some(node);
                }
                1 | 2 => {
                    if let Some(node) = down.take() {
                        cluster.start(node);
                    }
                }
                3 => cluster.router.cut(NodeId(1), NodeId(rng.random_range(2..=3))),
                4 => cluster.router.heal(),
                5 => cluster.flush(rng.random_range(1..=3)),
                6 => cluster.cut_logs(),
                _ => {
                    if let Some(leader) = cluster.leader(RANGE)
                        && let Ok(token) =
                            cluster.propose(leader, RANGE, &format!("k{step}={step}"))
                    {
                        asked.push((leader, token, step));
                    }
                }
            }
            cluster.run(Duration::from_millis(rng.random_range(10..400)));
            asked.retain(|(at, token, step)| {
                let done = cluster.acknowledged(*at, RANGE, *token);
                if done {
                    kept.push(*step);
                }
                !done
            });
        }
        cluster.router.heal();
        if let Some(node) = down {
            cluster.start(node);
        }
        cluster.write(RANGE, "end", "1");
        assert!(kept.len() > 5, "seed {seed}: only {} writes", kept.len());
        for node in 1..=3 {
            cluster.wait_value(node, "end", "1");
            for step in &kept {
                let found = cluster.nodes[&node].value(&format!("k{step}"));
                assert!(found.is_some(), "seed {seed}: k{step} is lost at n{node}");
            }
        }
    }
}

impl Cluster {
    fn metric_of(&self, node: u64, name: &str) -> u64 {
        self.nodes[&node].metric(name)
    }

    fn change(
        &mut self,
        range: RangeId,
        change: ReplicaChange,
    ) -> Result<quorate_proto::pb::RangeDescriptor, ChangeError> {
        let leader = self.wait_writable(range);
        let handle = self.nodes[&leader].handle();
        self.drive(async move { handle.change_replicas(range, change).await })
    }

    /// Flushes everywhere and cuts all logs as far as that allows.
    fn cut_logs(&mut self) {
        let alive: Vec<u64> =
            self.nodes.iter().filter(|(_, n)| n.driver.is_some()).map(|(id, _)| *id).collect();
        for node in alive {
            self.flush(node);
            let handle = self.nodes[&node].handle();
            for range in handle.ranges() {
                handle.shared.post(range, Input::Pinned { range });
            }
        }
        self.run(COMPACT_EVERY + TICK);
    }

    /// Starts a transfer and cuts the leader off before it can be finished.
    fn propose_handover_and_cut(&mut self, old: u64, to: u64) {
        let handle = self.nodes[&old].handle();
        let (answer, _outcome) = tokio::sync::oneshot::channel();
        handle.shared.post(RANGE, Input::Transfer { range: RANGE, to: NodeId(to), answer });
        for other in (1..=3).filter(|other| *other != old) {
            self.router.cut(NodeId(old), NodeId(other));
        }
        self.run(Duration::from_millis(500));
    }
}
