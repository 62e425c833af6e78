//! Rule R6 with whole nodes: followers answer for a moment that the leader has closed.

use super::*;

impl Cluster {
    /// Reads a key at a node that need not lead; asks again until it has caught up.
    async fn read_closed(
        &self,
        node: &Node,
        key: &[u8],
        closed: pb::Closed,
    ) -> Result<Option<Bytes>, pb::RangeError> {
        let read = pb::ReadRequest {
            read_ts: closed.ts,
            keys: vec![Bytes::copy_from_slice(key)],
            closed: Some(closed),
            ..pb::ReadRequest::default()
        };
        let epoch = node.ranges().replica(FIRST_DB_RANGE).expect("a replica").descriptor().epoch;
        until("a replica answers", || async {
            let request = pb::RangeRequest {
                range: Some(pb::RangeRef { range_id: FIRST_DB_RANGE.0, epoch }),
                body: Some(Ask::Read(read.clone())),
            };
            let reply = self.call(node, self.make_call(vec![request])).await;
            match reply.responses.into_iter().next()?.body? {
                Answer::Read(answer) => {
                    let value = answer.values.into_iter().next()?;
                    Some(Ok(value.present.then_some(value.value)))
                }
                Answer::Error(pb::RangeError { kind: Some(Kind::Unavailable(_)), .. }) => None,
                Answer::Error(error) => Some(Err(error)),
                other => panic!("a read answered {other:?}"),
            }
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_read_a_closed_moment_also_when_the_leader_is_gone() {
    let mut cluster = Cluster::start(3).await;
    let k = key("k");
    cluster.commit(&k, b"1").await.expect("committed");
    let moment = cluster.any().clock().now();
    let ask = Ask::CloseTimestamp(pb::CloseTimestampRequest { ts: moment.0 });
    let closed = match cluster.send(&k, ask).await.expect("it closes") {
        Answer::CloseTimestamp(answer) => answer.closed.expect("it says what"),
        other => panic!("closing answered {other:?}"),
    };
    // Every clock reads beyond it, so that everybody believes in it.
    cluster.live().for_each(|node| node.clock().observe(Timestamp(closed.ts)).expect("near"));
    cluster.commit(&k, b"2").await.expect("committed");
    let one = Ok(Some(Bytes::from_static(b"1")));
    for node in cluster.live() {
        assert_eq!(cluster.read_closed(node, &k, closed).await, one, "at {}", node.id());
    }
    let leader = cluster.serving(FIRST_DB_RANGE).await;
    let place = cluster.index_of(&leader);
    cluster.kill(place).await;
    for node in cluster.live() {
        assert_eq!(cluster.read_closed(node, &k, closed).await, one, "at {}", node.id());
    }
    cluster.stop().await;
}
