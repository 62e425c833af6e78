//! Nodes whose wall clocks are wrong (rule T3), and the cluster's limit for that.

use quorate_txn::clock::{PhysicalClock, Standing};

use super::*;
use crate::node::OpenError;

/// The machine's clock, the wall clock shifted.
#[derive(Debug, Default)]
pub(super) struct ShiftedClock(std::sync::atomic::AtomicI64);

impl ShiftedClock {
    fn set(&self, ms: i64) {
        self.0.store(ms, Ordering::SeqCst);
    }
}

impl PhysicalClock for ShiftedClock {
    fn now(&self) -> Timestamp {
        let ms = self.0.load(Ordering::SeqCst);
        let by = Duration::from_millis(ms.unsigned_abs());
        let now = SystemClock.now();
        if ms < 0 { now.bound_before(by) } else { now.bound_after(by) }
    }

    fn monotonic(&self) -> Duration {
        SystemClock.monotonic()
    }
}

/// The node that goes wrong. Not the first, which asks on behalf of the tests.
const VICTIM: usize = 2;

impl Cluster {
    fn node(&self, i: usize) -> Arc<Node> {
        self.nodes[i].clone().expect("it is open")
    }

    /// Moves the lead of the rows to the victim.
    async fn lead_at_the_victim(&self) {
        let victim = self.node(VICTIM);
        until("the victim leads", || async {
            let leader = self.leader_of(FIRST_DB_RANGE)?;
            if leader.id() == victim.id() {
                return Some(());
            }
            leader.move_lead(FIRST_DB_RANGE, victim.id()).await;
            None
        })
        .await;
    }

    /// Until both ranges are led by others, who know the victim for what it is.
    async fn led_by_others(&self) {
        let victim = self.node(VICTIM).id();
        for range in [META_RANGE, FIRST_DB_RANGE] {
            until("another leads", || async {
                self.leader_of(range).filter(|leader| leader.id() != victim)
            })
            .await;
        }
        until("the victim gets no leads", || async {
            let trusts = |i: usize| self.node(i).live().contains(&victim);
            (!trusts(0) && !trusts(1)).then_some(())
        })
        .await;
    }
}

async fn clock_of(node: &Node) -> pb::ClockState {
    node.status(false).await.clock.expect("it says how its clock is")
}

/// Its clock jumps out of bounds and back, forwards and backwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_clock_is_off_gives_its_leads_up_says_so_and_leads_again_when_it_is_well() {
    let cluster = Cluster::start(3).await;
    let victim = cluster.node(VICTIM);
    for ms in [1000, -1000] {
        cluster.lead_at_the_victim().await;
        cluster.clocks[VICTIM].set(ms);
        let says = until("the victim says that its clock is off", || async {
            Some(clock_of(&victim).await).filter(|clock| clock.refuses)
        })
        .await;
        assert!(says.off && (says.ahead_us - ms * 1000).abs() < 100_000, "{says:?}");
        assert_eq!(says.max_offset_us, 250_000);
        until("the victim leads nothing", || async { victim.led().is_empty().then_some(()) }).await;
        cluster.led_by_others().await;
        cluster.commit(&key("a"), b"1").await.expect("the others work on");
        assert_eq!(cluster.node(0).clock().standing(), Standing::Agrees);
        let status = cluster.node(0).status(false).await;
        let seen = status.clock_offsets.iter().find(|seen| seen.node_id == victim.id().0);
        let seen = seen.expect("it was asked");
        assert!(seen.refused && seen.measured, "{seen:?}");
        assert!((seen.offset_us - ms * 1000).abs() < 100_000, "{seen:?}");
        assert!(victim.led().is_empty(), "it got a lead while its clock is off");
        cluster.clocks[VICTIM].set(0);
        until("the victim is well", || async {
            (victim.clock().standing() == Standing::Agrees).then_some(())
        })
        .await;
        assert!(!clock_of(&victim).await.off);
    }
    cluster.lead_at_the_victim().await;
    drop(victim);
    cluster.stop().await;
}

/// Close to the limit its messages are still taken: the leads are handed over, nobody waits a lease
/// out, and statements go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_clock_is_almost_off_hands_its_leads_over() {
    let cluster = Cluster::start(3).await;
    let victim = cluster.node(VICTIM);
    cluster.lead_at_the_victim().await;
    let transfers = || {
        let counters = victim.raft().metrics().snapshot();
        counters.into_iter().find(|(name, _)| *name == "transfers").map(|(_, count)| count)
    };
    let (before, led) = (transfers(), victim.led().len() as u64);
    cluster.clocks[VICTIM].set(237);
    cluster.led_by_others().await;
    until("the leads are handed over", || async {
        (transfers() >= before.map(|before| before + led)).then_some(())
    })
    .await;
    let clock = clock_of(&victim).await;
    assert!(clock.off && !clock.refuses && clock.ahead_us > 200_000, "{clock:?}");
    cluster.commit(&key("a"), b"1").await.expect("the others work on");
    assert!(victim.led().is_empty());
    drop(victim);
    cluster.stop().await;
}

/// The limit is the cluster's: a node that is started with another one is refused, with both named,
/// before it is given a number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_another_clock_offset_than_its_cluster_is_refused() {
    let (asked, has) = (Duration::from_millis(250), Duration::from_millis(80));
    let mut cluster = Cluster::empty(2);
    let open = async |cluster: &mut Cluster, i, start, max_clock_offset| {
        let config = NodeConfig { max_clock_offset, ..cluster.config(i, start) };
        let node = Node::open(config).await;
        node.map(|node| cluster.nodes[i] = Some(node))
    };
    let unreal = open(&mut cluster, 0, Start::Bootstrap, Some(Duration::from_secs(1))).await;
    assert!(matches!(unreal, Err(OpenError::ClockOffset(_))), "{unreal:?}");
    open(&mut cluster, 0, Start::Bootstrap, Some(has)).await.expect("it begins");
    let refused = OpenError::OtherClockOffset { asked, cluster: has };
    let said = refused.to_string();
    assert!(said.contains("250ms") && said.contains("80ms"), "{said}");
    let joined = open(&mut cluster, 1, Start::Join(Vec::new()), Some(asked)).await;
    assert_eq!(joined, Err(refused.clone()));
    open(&mut cluster, 1, Start::Join(Vec::new()), None).await.expect("it joins");
    let node = cluster.node(1);
    assert_eq!((node.id(), node.clock().max_offset()), (NodeId(2), has));
    drop(node);
    cluster.kill(1).await;
    for start in [Start::Restart, Start::Join(Vec::new())] {
        assert_eq!(open(&mut cluster, 1, start, Some(asked)).await, Err(refused.clone()));
    }
    open(&mut cluster, 1, Start::Restart, Some(has)).await.expect("the same one");
    assert_eq!(cluster.node(1).clock().max_offset(), has);
    cluster.stop().await;
}
