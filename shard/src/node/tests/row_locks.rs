//! Row locks with whole nodes: they go with the lead.

use super::*;

impl Cluster {
    /// Asks for a row without waiting.
    async fn lock(&self, owner: u128, key: &[u8]) -> Result<Answer, pb::RangeError> {
        let owner =
            pb::LockOwner { id: TxnId(owner).to_bytes(), node_id: 1, ..pb::LockOwner::default() };
        let request = pb::LockRequest {
            owner: Some(owner),
            keys: vec![Bytes::copy_from_slice(key)],
            mode: i32::from(pb::LockMode::Update),
            wait: i32::from(pb::LockWait::Nowait),
            read_at: u64::MAX,
            sequence: 1,
            ..pb::LockRequest::default()
        };
        self.send(key, Ask::Lock(request)).await
    }

    /// Its gateway says that an owner lives: a busy machine may take longer than a lock lasts.
    async fn keep_locks(&self, owner: u128) {
        let owner_ids = vec![TxnId(owner).to_bytes()];
        for node in self.live() {
            let mut call = self.make_call(Vec::new());
            let keep = node_request::Body::KeepLocks(pb::KeepLocksRequest {
                owner_ids: owner_ids.clone(),
            });
            call.node = Some(pb::NodeRequest { body: Some(keep) });
            self.call(node, call).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_locks_go_with_the_lead() {
    let cluster = Cluster::start(3).await;
    let k = key("k");
    cluster.commit(&k, b"1").await.expect("committed");
    let leader = cluster.serving(FIRST_DB_RANGE).await;
    cluster.lock(1, &k).await.expect("nobody has it");
    let other = cluster.live().find(|node| node.id() != leader.id()).expect("three nodes").id();
    let next = until("another leads", || async {
        let now = cluster.leader_of(FIRST_DB_RANGE)?;
        if now.id() != leader.id() {
            return Some(now);
        }
        now.move_lead(FIRST_DB_RANGE, other).await;
        None
    })
    .await;
    assert_ne!(next.id(), leader.id());
    cluster.keep_locks(1).await;
    let busy = cluster.lock(2, &k).await.expect_err("the first owner has it still");
    match busy.kind {
        Some(Kind::Busy(busy)) => assert_eq!(busy.blockers[0].id, TxnId(1).to_bytes()),
        other => panic!("refused with {other:?}"),
    }
    let unlock = pb::UnlockRequest {
        owner_id: TxnId(1).to_bytes(),
        keys: vec![k.clone().into()],
        sequence: 2,
    };
    cluster.send(&k, Ask::Unlock(unlock)).await.expect("it is given up");
    cluster.lock(2, &k).await.expect("nobody has it any more");
    drop((leader, next));
    cluster.stop().await;
}
