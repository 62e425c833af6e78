//! Whether the body of a client's message has the shape its kind promises: fields that end within
//! it, counts that are true, nothing behind. `pgwire` reads fixed-width fields without asking
//! whether they are there, and takes a string without its end for an empty one.

/// Walks over a body.
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    /// A string with its zero byte.
    fn string(&mut self) -> Option<()> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        self.take(end + 1).map(|_| ())
    }

    fn count(&mut self) -> Option<usize> {
        self.take(2).map(|bytes| usize::from(u16::from_be_bytes([bytes[0], bytes[1]])))
    }

    /// A count and so many fields of this width.
    fn array(&mut self, width: usize) -> Option<()> {
        let count = self.count()?;
        self.take(count * width).map(|_| ())
    }

    /// A value with its length; -1 is NULL.
    fn value(&mut self) -> Option<()> {
        let bytes = self.take(4)?;
        match i32::from_be_bytes(bytes.try_into().ok()?) {
            -1 => Some(()),
            len => self.take(usize::try_from(len).ok()?).map(|_| ()),
        }
    }

    fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// Whether a running connection's message of this kind may have this body. Kinds that are not
/// known here are told apart elsewhere.
pub fn fits(kind: u8, body: &[u8]) -> bool {
    walk(kind, &mut Body(body)).is_some()
}

fn walk(kind: u8, body: &mut Body<'_>) -> Option<()> {
    match kind {
        b'Q' | b'f' => body.string()?,
        b'P' => {
            body.string()?;
            body.string()?;
            body.array(4)?;
        }
        b'B' => {
            body.string()?;
            body.string()?;
            body.array(2)?;
            for _ in 0..body.count()? {
                body.value()?;
            }
            body.array(2)?;
        }
        b'C' | b'D' => {
            body.take(1)?;
            body.string()?;
        }
        b'E' => {
            body.string()?;
            body.take(4)?;
        }
        b'H' | b'S' | b'c' => {}
        _ => return Some(()),
    }
    body.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_messages_fit_and_cut_or_longer_ones_do_not() {
        let whole: [(u8, &[u8]); 10] = [
            (b'Q', b"SELECT 1\0"),
            (b'P', b"s\0SELECT $1\0\0\x01\0\0\0\x17"),
            (b'B', b"\0s\0\0\x01\0\x01\0\x02\xff\xff\xff\xff\0\0\0\x01x\0\0"),
            (b'D', b"Ss\0"),
            (b'C', b"P\0"),
            (b'E', b"\0\0\0\0\0"),
            (b'S', b""),
            (b'H', b""),
            (b'c', b""),
            (b'f', b"why\0"),
        ];
        for (kind, body) in whole {
            assert!(fits(kind, body), "{} {body:?}", kind as char);
            for len in 0..body.len() {
                assert!(!fits(kind, &body[..len]), "{} {:?}", kind as char, &body[..len]);
            }
            assert!(!fits(kind, &[body, b"\0"].concat()), "{}", kind as char);
        }
        assert!(!fits(b'B', b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0"), "a length below -1");
    }
}
