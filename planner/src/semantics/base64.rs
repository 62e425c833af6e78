//! Base64 as PostgreSQL's `encode` writes it: lines of 76 characters.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const LINE: usize = 76;

/// Bytes as base64.
pub fn encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 4 / 3 + 4);
    let mut column = 0;
    for chunk in bytes.chunks(3) {
        if column >= LINE {
            out.push('\n');
            column = 0;
        }
        let n = chunk.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let digit = (n >> (18 - 6 * i)) as usize & 63;
            out.push(if i <= chunk.len() { char::from(ALPHABET[digit]) } else { '=' });
        }
        column += 4;
    }
    out
}

/// Base64 as bytes; white space is skipped.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let (mut n, mut digits, mut padding) = (0u32, 0, 0);
    for b in text.bytes().filter(|b| !b.is_ascii_whitespace()) {
        let digit = if b == b'=' {
            padding += 1;
            0
        } else if padding > 0 {
            return None;
        } else {
            u32::try_from(ALPHABET.iter().position(|a| *a == b)?).ok()?
        };
        n = n << 6 | digit;
        digits += 1;
        if digits == 4 {
            if padding > 2 {
                return None;
            }
            out.extend_from_slice(&n.to_be_bytes()[1..4 - padding]);
            (n, digits) = (0, 0);
        }
    }
    (digits == 0).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive() {
        for length in 0..9u8 {
            let bytes: Vec<u8> = (0..length).map(|i| i.wrapping_mul(97)).collect();
            assert_eq!(decode(&encode(&bytes)), Some(bytes));
        }
        assert_eq!(encode(b"abcd"), "YWJjZA==");
        assert_eq!(decode("YWJj!A=="), None);
        assert_eq!(decode("YWJ"), None);
    }
}
