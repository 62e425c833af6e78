//! Operators as PostgreSQL cuts them from a text.
//!
//! sqlparser takes all characters that an operator may have for one, so that `>-1` begins with an
//! operator `>-`. PostgreSQL's rules (`operator` in `scan.l`): a comment ends an operator, and one
//! of several characters ends in `+` or `-` only if it has one of [`SPECIAL`].

use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::tokenizer::{
    Location, Span, Token, TokenWithSpan, Tokenizer, TokenizerError,
};

use super::tokens::byte_at;

/// Characters that no operator of the SQL standard has.
const SPECIAL: [char; 10] = ['~', '!', '@', '#', '^', '&', '|', '`', '?', '%'];

/// Comments right behind an operator that are seen as such; what follows each is cut once more.
const COMMENTS_MAX: usize = 16;

/// The tokens of a text, white space and comments among them.
///
/// # Errors
/// What is neither token nor space, or does not end.
pub(super) fn tokenize(text: &str) -> Result<Vec<TokenWithSpan>, TokenizerError> {
    let mut out: Vec<TokenWithSpan> = Vec::new();
    let (mut rest, mut from) = (text, Location { line: 1, column: 1 });
    for comments in 0.. {
        let first = out.len();
        let done =
            Tokenizer::new(&PostgreSqlDialect {}, rest).tokenize_with_location_into_buf(&mut out);
        let comment = out[first..].iter().position(|t| comment_in(&t.token).is_some());
        let comment = comment.filter(|_| comments < COMMENTS_MAX).map(|i| first + i);
        let end = comment.and_then(|i| {
            out.truncate(i + 1);
            before_comment(&mut out[i])
        });
        let next = end.map(|end| (byte_at(rest, end), behind(from, end)));
        for token in &mut out[first..] {
            token.span = Span::new(behind(from, token.span.start), behind(from, token.span.end));
        }
        let Some((bytes, place)) = next else {
            done.map_err(|e| TokenizerError { location: behind(from, e.location), ..e })?;
            break;
        };
        (rest, from) = (rest.get(bytes..).unwrap_or(""), place);
    }
    Ok(match out.iter().any(|t| matches!(t.token, Token::CustomBinaryOperator(_))) {
        true => out.into_iter().flat_map(cut).collect(),
        false => out,
    })
}

/// Where in an operator a comment begins.
fn comment_in(token: &Token) -> Option<usize> {
    let Token::CustomBinaryOperator(text) = token else { return None };
    [text.find("--"), text.find("/*")].into_iter().flatten().min()
}

/// Cuts an operator off before the comment in it, whose place it returns.
fn before_comment(token: &mut TokenWithSpan) -> Option<Location> {
    let at = comment_in(&token.token)?;
    if let Token::CustomBinaryOperator(text) = &mut token.token {
        text.truncate(at);
    }
    token.span.end = moved(token.span.start, at);
    Some(token.span.end)
}

/// A place in a text that itself begins at `from`.
fn behind(from: Location, place: Location) -> Location {
    match place.line {
        1 => Location { line: from.line, column: from.column + place.column - 1 },
        line => Location { line: from.line + line - 1, column: place.column },
    }
}

/// A place some characters further on in its line.
fn moved(place: Location, by: usize) -> Location {
    Location { column: place.column + by as u64, ..place }
}

/// An operator, and each `+` or `-` that is none of its characters.
fn cut(token: TokenWithSpan) -> Vec<TokenWithSpan> {
    let Token::CustomBinaryOperator(text) = &token.token else { return vec![token] };
    let kept = match text.contains(SPECIAL) {
        true => text.len(),
        false => text.trim_end_matches(['+', '-']).len().max(1),
    };
    let span = |from, to| Span::new(moved(token.span.start, from), moved(token.span.start, to));
    let mut out = vec![TokenWithSpan::new(operator(&text[..kept]), span(0, kept))];
    for (i, sign) in text.char_indices().skip(kept) {
        let sign = if sign == '+' { Token::Plus } else { Token::Minus };
        out.push(TokenWithSpan::new(sign, span(i, i + 1)));
    }
    out
}

/// The token an operator is where nothing follows it.
fn operator(text: &str) -> Token {
    let alone = Tokenizer::new(&PostgreSqlDialect {}, text).tokenize();
    match alone.map(|mut tokens| (tokens.pop(), tokens.is_empty())) {
        Ok((Some(token), true)) => token,
        _ => Token::CustomBinaryOperator(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;

    use super::super::parse;
    use super::super::tokens;
    use super::*;
    use crate::error::SqlState;
    use crate::testing::MemDb;

    fn cut_up(text: &str) -> Vec<Token> {
        let tokens = tokens::tokenize(text).expect(text);
        tokens.into_iter().map(|t| t.token).collect()
    }

    /// The tokens between `a` and `1`.
    fn between(operators: &str) -> Vec<Token> {
        let mut tokens = cut_up(&format!("a{operators}1"));
        assert_eq!(tokens.pop(), Some(Token::Number("1".into(), false)), "{operators}");
        assert_eq!(tokens.remove(0), Token::make_word("a", None), "{operators}");
        tokens
    }

    #[test]
    fn a_sign_behind_an_operator_is_no_part_of_it() {
        use Token::*;
        let operators = [
            (">", Gt),
            ("<", Lt),
            ("=", Eq),
            (">=", GtEq),
            ("<=", LtEq),
            ("<>", Neq),
            ("!=", Neq),
            ("*", Mul),
            ("/", Div),
            ("+", Plus),
            ("->", Arrow),
            ("->>", LongArrow),
            ("<<", ShiftLeft),
            (">>", ShiftRight),
            ("<->", TwoWayArrow),
        ];
        for (text, token) in operators {
            for (signs, more) in [("-", vec![Minus]), ("+", vec![Plus]), ("+-", vec![Plus, Minus])]
            {
                let wanted: Vec<_> = std::iter::once(token.clone()).chain(more).collect();
                assert_eq!(between(&format!("{text}{signs}")), wanted, "{text}{signs}");
            }
        }
        assert_eq!(between("-+"), [Minus, Plus]);
        assert_eq!(between("-+-"), [Minus, Plus, Minus]);
    }

    #[test]
    fn an_operator_with_a_character_of_its_own_keeps_its_sign() {
        let custom = |text: &str| vec![Token::CustomBinaryOperator(text.into())];
        for text in ["||-", "%-", "~-", "&-", "|-", "&&+", "-|-", "@-#"] {
            assert_eq!(between(text), custom(text));
        }
        for (text, token) in [
            ("->", Token::Arrow),
            ("->>", Token::LongArrow),
            ("#-", Token::HashMinus),
            ("@-@", Token::AtDashAt),
            ("?-", Token::QuestionMarkDash),
            ("<->", Token::TwoWayArrow),
        ] {
            assert_eq!(between(text), [token]);
        }
        assert_eq!(between(">/"), custom(">/"), "it ends in no sign");
        assert!(tokens::tokenize("@-1").is_err());
    }

    #[test]
    fn an_operator_that_ends_in_a_sign_is_unknown() {
        let error = block_on(MemDb::new().run("select 'a'||-1")).expect_err("no such operator");
        assert_eq!(error.sqlstate, SqlState::UNDEFINED_FUNCTION);
        assert_eq!(error.message, "operator does not exist: ||-");
        assert!(error.hint.is_some());
    }

    #[test]
    fn a_comment_ends_an_operator() {
        use Token::*;
        for (text, wanted) in [
            (">--c\n", vec![Gt]),
            ("||--don't\n", vec![StringConcat]),
            (">-/* - */", vec![Gt, Minus]),
            ("||/* 'c */", vec![StringConcat]),
            ("-/*c*/-/*d*/", vec![Minus, Minus]),
            ("<>--c\n-", vec![Neq, Minus]),
        ] {
            assert_eq!(between(text), wanted, "{text}");
        }
        assert_eq!(cut_up(&">--c\n".repeat(COMMENTS_MAX)), vec![Gt; COMMENTS_MAX]);
    }

    #[test]
    fn places_are_those_of_the_text() {
        let text = "a>=-1||--é\n  'b'>-/*\n*/c '";
        let error = tokens::tokenize(text).expect_err("a quote too many");
        assert_eq!(error.position, Some(text.chars().count()));
        let text = &text[..text.len() - 2];
        let tokens = tokens::tokenize(text).expect("tokens");
        let shown: Vec<_> =
            tokens.iter().map(|t| tokens::text_of(text, std::slice::from_ref(t))).collect();
        assert_eq!(shown, ["a", ">=", "-", "1", "||", "'b'", ">", "-", "c"]);
    }

    #[test]
    fn a_negative_number_may_follow_without_a_blank() {
        for (text, same) in [
            ("select 1 where v>-1", "SELECT 1 WHERE v > -1"),
            ("select 1 where v>=-2 or v>+1", "SELECT 1 WHERE v >= -2 OR v > +1"),
            ("select 1 where v<>-2 and v < -1", "SELECT 1 WHERE v <> -2 AND v < -1"),
            ("select 3*-2, 1-+1, j->-1", "SELECT 3 * -2, 1 - +1, j -> -1"),
        ] {
            let parsed = parse(text).expect(text).remove(0).parse_literal().expect(text);
            assert_eq!(parsed.statement.to_string(), same);
        }
        let error = parse("select 1 where v>-)").expect("tokens")[0].parse_plan();
        let error = error.expect_err("no operand");
        assert_eq!((error.sqlstate, error.position), (SqlState::SYNTAX_ERROR, Some(19)));
    }
}
