//! Messages that append entries, as they leave a leader: what is meant for one peer and fits
//! together leaves as one.
//!
//! raft-rs can do this itself (`batch_append`), wrongly: it adds entries to a message without any,
//! whatever place in the log that message names. A message without entries that waits to be sent
//! when a rejection takes the peer's progress back then claims that the entries lie further on than
//! they do; the peer acknowledges places that it does not hold, and they count for a majority.

use std::collections::BTreeMap;

use raft::eraftpb::{Message, MessageType};

use super::config::APPEND_BYTES_MAX;

/// Where the next message must begin to go on where this one ends: index and term.
fn end_of(message: &Message) -> (u64, u64) {
    match message.entries.last() {
        Some(entry) => (entry.index, entry.term),
        None => (message.index, message.log_term),
    }
}

fn bytes_of(message: &Message) -> u64 {
    message.entries.iter().map(|entry| entry.data.len() as u64).sum()
}

/// Joins each append to the one before it for the same peer, if it goes on where that one ends.
///
/// # Panics
/// If entries do not follow the place that their message names: whoever took it would hold other
/// entries than it acknowledges.
pub(super) fn join(messages: Vec<Message>) -> Vec<Message> {
    let mut joined: Vec<Message> = Vec::with_capacity(messages.len());
    let mut last_append: BTreeMap<u64, usize> = BTreeMap::new();
    for mut message in messages {
        if message.get_msg_type() != MessageType::MsgAppend {
            joined.push(message);
            continue;
        }
        assert!(
            message.entries.first().is_none_or(|entry| entry.index == message.index + 1),
            "the entries of an append follow the place that it names"
        );
        let before = last_append.get(&message.to).and_then(|at| joined.get_mut(*at));
        match before {
            Some(before)
                if before.term == message.term
                    && end_of(before) == (message.index, message.log_term)
                    && bytes_of(before) + bytes_of(&message) <= APPEND_BYTES_MAX =>
            {
                before.entries.extend(message.take_entries());
                before.commit = before.commit.max(message.commit);
            }
            _ => {
                last_append.insert(message.to, joined.len());
                joined.push(message);
            }
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use quorate_proto::PeerId;
    use raft::eraftpb::Entry;
    use raft::storage::MemStorage;
    use raft::{RawNode, Storage as _};

    use super::super::group::raft_config;
    use super::*;

    fn append(to: u64, index: u64, entries: std::ops::Range<u64>) -> Message {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgAppend);
        (message.to, message.term, message.index, message.log_term) = (to, 3, index, 3);
        let entry = |index| Entry { index, term: 3, ..Entry::default() };
        message.set_entries(entries.map(entry).collect::<Vec<_>>().into());
        message
    }

    fn shape(messages: Vec<Message>) -> Vec<(u64, u64, usize)> {
        join(messages).iter().map(|m| (m.to, m.index, m.entries.len())).collect()
    }

    #[test]
    fn appends_that_go_on_where_the_last_ended_leave_as_one() {
        let messages = vec![
            append(2, 4, 5..6),
            append(3, 4, 5..6),
            append(2, 5, 6..8),
            append(3, 5, 6..8),
            append(2, 7, 8..8),
        ];
        assert_eq!(shape(messages), [(2, 4, 3), (3, 4, 3)]);
    }

    #[test]
    fn an_append_elsewhere_stays_by_itself() {
        assert_eq!(shape(vec![append(2, 9, 10..10), append(2, 4, 5..7)]), [(2, 9, 0), (2, 4, 2)]);
        assert_eq!(shape(vec![append(2, 4, 5..7), append(2, 9, 10..11)]), [(2, 4, 2), (2, 9, 1)]);
    }

    fn response(from: u64, kind: MessageType, term: u64) -> Message {
        let mut message = Message::default();
        message.set_msg_type(kind);
        (message.from, message.to, message.term) = (from, 1, term);
        message
    }

    fn take_messages(raw: &mut RawNode<MemStorage>) -> Vec<Message> {
        let mut messages = Vec::new();
        while raw.has_ready() {
            let mut ready = raw.ready();
            messages.extend(ready.take_messages());
            raw.mut_store().wl().append(ready.entries()).expect("in memory");
            messages.extend(ready.take_persisted_messages());
            let mut light = raw.advance(ready);
            messages.extend(light.take_messages());
            raw.advance_apply();
        }
        messages
    }

    /// Found by the simulator (seed 1001): with raft-rs's own batching, entries 2 to 4 left in a
    /// message that named place 4, and the follower acknowledged 7.
    #[test]
    fn entries_sent_again_after_a_rejection_follow_the_place_their_message_names() {
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let store = MemStorage::new_with_conf_state((vec![1, 2, 3], vec![]));
        let mut raw = RawNode::new(&raft_config(PeerId(1), 0), store, &logger).expect("a node");
        raw.raft.become_candidate();
        raw.raft.become_leader();
        take_messages(&mut raw);
        let term = raw.raft.term;
        let mut first = response(2, MessageType::MsgAppendResponse, term);
        first.index = 1;
        raw.step(first).expect("a leader takes it");
        for _ in 0..3 {
            raw.propose(Vec::new(), b"lost on the way".to_vec()).expect("a leader takes it");
        }
        take_messages(&mut raw);
        assert_eq!(raw.store().last_index(), Ok(4));
        // Two answers in one pass: the first has an append without entries sent, which names 4,
        // the second says that the follower has nothing beyond 1.
        raw.step(response(2, MessageType::MsgHeartbeatResponse, term)).expect("taken");
        let mut rejected = response(2, MessageType::MsgAppendResponse, term);
        (rejected.index, rejected.reject, rejected.reject_hint) = (4, true, 1);
        raw.step(rejected).expect("a leader takes it");
        let messages = join(take_messages(&mut raw));
        let again = messages.iter().find(|m| m.to == 2 && !m.entries.is_empty());
        let again = again.expect("the entries are sent again");
        assert_eq!((again.index, again.entries[0].index), (1, 2));
    }
}
