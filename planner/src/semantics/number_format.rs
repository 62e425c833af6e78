//! `to_char` of numbers. Patterns: `9`, `0`, `.`/`D`, `,`/`G`, `S`, `MI`, `PL`, `SG`, `PR`, `FM`.

use super::cast::{number, of_string, string};
use super::function::Call;
use crate::error::{SqlError, SqlResult};
use crate::keyenc::Datum;
use crate::types::numeric::Numeric;

/// Where the sign goes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Sign {
    /// Before the number, a blank if it is positive.
    Plain,
    /// `S` in front: `+` or `-` beside the number.
    Lead,
    /// `S` at the end.
    Trail,
    /// `MI`: a minus or a blank at the end.
    TrailMinus,
    /// `PR`: angle brackets.
    Brackets,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Element {
    /// A digit; `true`: shown even if it is a leading zero.
    Digit(bool),
    Group,
    Point,
    Text(char),
}

struct Picture {
    elements: Vec<Element>,
    sign: Sign,
    fill: bool,
}

fn picture(format: &str) -> SqlResult<Picture> {
    let mut out = Picture { elements: Vec::new(), sign: Sign::Plain, fill: true };
    let upper = format.to_ascii_uppercase();
    let mut rest = upper.as_str();
    let mut seen_digit = false;
    while let Some(c) = rest.chars().next() {
        let mut used = c.len_utf8();
        match c {
            '9' | '0' => {
                seen_digit = true;
                out.elements.push(Element::Digit(c == '0'));
            }
            '.' | 'D' => out.elements.push(Element::Point),
            ',' | 'G' => out.elements.push(Element::Group),
            'S' if !rest.starts_with("SG") => {
                out.sign = if seen_digit { Sign::Trail } else { Sign::Lead };
            }
            _ if rest.starts_with("FM") => {
                out.fill = false;
                used = 2;
            }
            _ if rest.starts_with("MI") && seen_digit => {
                out.sign = Sign::TrailMinus;
                used = 2;
            }
            _ if rest.starts_with("PR") => {
                out.sign = Sign::Brackets;
                used = 2;
            }
            'L' | 'V' | 'E' | 'R' | 'T' | 'P' | 'M' | '"' => {
                return Err(SqlError::unsupported(format_args!(
                    "the number format \"{format}\" of to_char"
                )));
            }
            other => out.elements.push(Element::Text(other)),
        }
        rest = &rest[used..];
    }
    let points = out.elements.iter().filter(|e| **e == Element::Point).count();
    if points > 1 {
        return Err(SqlError::syntax("multiple decimal points"));
    }
    Ok(out)
}

/// `to_char(number, format)`
pub fn to_char(call: &Call<'_>, v: &[Datum<'_>]) -> SqlResult<Datum<'static>> {
    let value = number(&v[0], call.types[0])?;
    let picture = picture(string(&v[1])?)?;
    if !matches!(value, Numeric::Finite { .. }) {
        return Err(SqlError::unsupported("to_char of NaN or an infinity"));
    }
    let point = picture.elements.iter().position(|e| *e == Element::Point);
    let digit = |e: &Element| matches!(e, Element::Digit(_));
    let split = point.unwrap_or(picture.elements.len());
    let whole_places = picture.elements[..split].iter().filter(|e| digit(e)).count();
    let decimals = picture.elements[split..].iter().filter(|e| digit(e)).count();
    let rounded = value.round(i32::try_from(decimals).unwrap_or(0))?;
    let mut text = Vec::new();
    rounded.write(&mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    let negative = text.starts_with('-') && rounded.sign() != Some(0);
    let text = text.trim_start_matches('-');
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole = if whole == "0" && decimals > 0 { "" } else { whole };
    let overflow = whole.len() > whole_places;
    let body =
        picture.body(split, whole_places, if overflow { None } else { Some(whole) }, fraction);
    Ok(of_string(picture.signed(&body, negative)))
}

impl Picture {
    /// The digits in their places; `None` as whole part: too many of them.
    fn body(&self, split: usize, places: usize, whole: Option<&str>, fraction: &str) -> String {
        let mut out = String::new();
        let mut place = 0;
        let mut started = false;
        let mut decimal = fraction.chars();
        // The last digit of the fraction that is shown without FM: trailing zeros of 9s go with FM.
        let wanted = self.elements[split..].iter().filter(|e| matches!(e, Element::Digit(_)));
        let forced = wanted
            .enumerate()
            .filter(|(_, e)| **e == Element::Digit(true))
            .map(|(i, _)| i + 1)
            .last()
            .unwrap_or(0);
        let shown = if self.fill {
            fraction.len()
        } else {
            fraction.trim_end_matches('0').len().max(forced)
        };
        let mut at = 0;
        for (i, element) in self.elements.iter().enumerate() {
            match element {
                Element::Digit(zero) if i < split => {
                    let from_right = places - place;
                    place += 1;
                    let Some(whole) = whole else {
                        out.push('#');
                        started = true;
                        continue;
                    };
                    let c = whole.len().checked_sub(from_right).and_then(|n| whole.chars().nth(n));
                    started |= *zero || c.is_some();
                    match c {
                        Some(c) => out.push(c),
                        None if started => out.push('0'),
                        None if self.fill => out.push(' '),
                        None => {}
                    }
                }
                Element::Digit(_) => {
                    let c = decimal.next().unwrap_or('0');
                    at += 1;
                    if whole.is_none() {
                        out.push('#');
                    } else if at <= shown {
                        out.push(c);
                    }
                }
                Element::Group if i < split => match started {
                    true => out.push(','),
                    false if self.fill => out.push(' '),
                    false => {}
                },
                Element::Group => {}
                Element::Point => out.push('.'),
                Element::Text(c) => out.push(*c),
            }
        }
        out
    }

    fn signed(&self, body: &str, negative: bool) -> String {
        let blanks = body.len() - body.trim_start_matches(' ').len();
        let (pad, digits) = body.split_at(blanks);
        let beside = |sign: &str| format!("{pad}{sign}{digits}");
        match self.sign {
            Sign::Plain if negative => beside("-"),
            Sign::Plain if self.fill => beside(" "),
            Sign::Plain => beside(""),
            Sign::Lead => beside(if negative { "-" } else { "+" }),
            Sign::Trail => format!("{body}{}", if negative { "-" } else { "+" }),
            Sign::TrailMinus if negative => format!("{body}-"),
            Sign::TrailMinus if self.fill => format!("{body} "),
            Sign::TrailMinus => body.to_owned(),
            Sign::Brackets if negative => format!("{pad}<{digits}>"),
            Sign::Brackets if self.fill => format!("{pad} {digits} "),
            Sign::Brackets => body.to_owned(),
        }
    }
}
