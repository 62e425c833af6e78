//! Which operator or function a call means, by the types of its arguments.

use super::cast::{Context, allowed};
use super::function::{Arg, Resolved};
use super::table::{self, T};
use crate::error::{SqlError, SqlResult, SqlState};
use crate::types::PgType;

/// The types of a call of one of our functions, operators included.
pub fn function(name: &'static str, args: &[Arg]) -> SqlResult<Resolved> {
    if let Some(resolved) = special(name, args)? {
        return Ok(resolved);
    }
    overload(name, args)
}

fn undefined_operator(op: &str, args: &[Arg]) -> SqlError {
    let shown: Vec<String> = args.iter().map(|a| a.ty.sql_name().to_owned()).collect();
    let call = match shown.as_slice() {
        [one] => format!("{op} {one}"),
        both => both.join(&format!(" {op} ")),
    };
    SqlError::new(SqlState::UNDEFINED_FUNCTION, format!("operator does not exist: {call}"))
        .with_hint(
            "No operator matches the given name and argument types. You might need to add \
             explicit type casts.",
        )
}

fn undefined_function(name: &str, args: &[Arg]) -> SqlError {
    let types: Vec<&str> = args.iter().map(|a| a.ty.sql_name()).collect();
    SqlError::new(
        SqlState::UNDEFINED_FUNCTION,
        format!("function {name}({}) does not exist", types.join(", ")),
    )
    .with_hint(
        "No function matches the given name and argument types. You might need to add explicit \
         type casts.",
    )
}

/// Operators and functions whose types follow a rule instead of a table.
fn special(name: &'static str, args: &[Arg]) -> SqlResult<Option<Resolved>> {
    let all = |args: Vec<PgType>, ret| Ok(Some(Resolved { args, ret }));
    match (name, args) {
        ("pg_cast" | "pg_assign", [value, target]) => {
            let to = target_type(target)?;
            all(vec![value.ty, PgType::Text], to)
        }
        ("pg_eq" | "pg_ne" | "pg_lt" | "pg_le" | "pg_gt" | "pg_ge", [a, b]) => {
            // Becomes a comparison of DataFusion's; only its type matters here.
            all(vec![a.ty, b.ty], PgType::Bool)
        }
        ("pg_add" | "pg_sub" | "pg_mul" | "pg_div" | "pg_mod", [a, b]) => {
            arithmetic(name, a, b).map(Some)
        }
        ("pg_neg" | "abs", [a]) if a.ty.is_number() => all(vec![a.ty], a.ty),
        ("abs", [a]) if a.ty == PgType::Unknown => all(vec![PgType::Float8], PgType::Float8),
        ("pg_neg", [a]) if a.ty == PgType::Interval => all(vec![a.ty], a.ty),
        ("pg_concat", [a, b]) => concat(args, a, b).map(Some),
        ("round" | "trunc", [a]) | ("ceil" | "ceiling" | "floor" | "sign", [a])
            if matches!(a.ty, PgType::Numeric(Some(_))) =>
        {
            all(vec![a.ty], PgType::Numeric(Some((38, 0))))
        }
        ("round" | "trunc", [a, n]) if matches!(a.ty, PgType::Numeric(Some(_))) => {
            match &n.literal {
                Some(n) => {
                    let digits = n.to_string().parse::<i8>().ok().filter(|d| (0..38).contains(d));
                    match digits {
                        Some(d) => all(vec![a.ty, PgType::Int4], PgType::Numeric(Some((38, d)))),
                        None => Ok(None),
                    }
                }
                None => Ok(None),
            }
        }
        _ => by_rule(name, args),
    }
}

/// The type of `NULLIF(a, b)`: what the left side of `a = b` is brought to.
pub fn nullif_type(a: &Arg, b: &Arg) -> SqlResult<PgType> {
    use PgType::{Date, Float4, Float8, Int2, Int4, Int8, Timestamp, TimestampTz};
    // Types that are compared with one another as they are.
    let mixed: [&[PgType]; 3] =
        [&[Int2, Int4, Int8], &[Float4, Float8], &[Date, Timestamp, TimestampTz]];
    if mixed.iter().any(|types| types.contains(&a.ty) && types.contains(&b.ty)) {
        return Ok(a.ty);
    }
    let ty = comparable(a, b, "=")?;
    Ok(match ty {
        ty if same_type(a.ty, ty) => a.ty,
        // Every value keeps its own digits.
        PgType::Numeric(_) => PgType::Numeric(None),
        ty => ty,
    })
}

/// Functions of any types.
fn by_rule(name: &'static str, args: &[Arg]) -> SqlResult<Option<Resolved>> {
    let all = |args: Vec<PgType>, ret| Ok(Some(Resolved { args, ret }));
    match (name, args) {
        ("coalesce" | "greatest" | "least", args) if !args.is_empty() => {
            let ty = common_type(name, args)?;
            all(vec![ty; args.len()], ty)
        }
        ("nullif", [a, b]) => {
            let ty = comparable(a, b, "=")?;
            let own = nullif_type(a, b)?;
            all(vec![own, ty], own)
        }
        ("extract" | "date_part", [field, value]) => extract(name, field, value).map(Some),
        ("concat", args) => all(args.iter().map(string_or_own).collect(), PgType::Text),
        ("format", [format]) => all(vec![string_or_own(format)], PgType::Text),
        ("concat_ws" | "format", args) if !args.is_empty() => {
            all(args.iter().map(string_or_own).collect(), PgType::Text)
        }
        ("octet_length", [a]) if matches!(a.ty, PgType::Char(_)) => all(vec![a.ty], PgType::Int4),
        ("power" | "pow" | "pg_pow" | "exp" | "ln" | "log" | "log10", args)
            if args.iter().any(|a| matches!(a.ty, PgType::Numeric(_)))
                && !args.iter().any(|a| matches!(a.ty, PgType::Float4 | PgType::Float8)) =>
        {
            Err(SqlError::unsupported(format_args!(
                "{name} of numeric (cast it to double precision)"
            )))
        }
        ("pg_raw", [a]) => all(vec![a.ty], PgType::Text),
        ("pg_typeof", [a]) => all(vec![a.ty], PgType::Text),
        ("pg_pad", [a, n]) => {
            let length = n.literal.as_ref().and_then(|v| v.to_string().parse().ok());
            all(vec![a.ty, PgType::Int4], PgType::Char(length))
        }
        ("pg_key", [a]) => {
            let ret = match a.ty {
                PgType::Numeric(_) => PgType::Bytea,
                PgType::Char(_) => PgType::Text,
                PgType::Interval => PgType::Numeric(Some((38, 0))),
                other => other,
            };
            all(vec![a.ty], ret)
        }
        _ => Ok(None),
    }
}

fn string_or_own(arg: &Arg) -> PgType {
    if arg.ty == PgType::Unknown { PgType::Text } else { arg.ty }
}

/// The type named by the second argument of a cast.
pub fn target_type(target: &Arg) -> SqlResult<PgType> {
    match &target.literal {
        Some(datafusion::common::ScalarValue::Utf8(Some(name))) => PgType::parse_display(name),
        _ => None,
    }
    .ok_or_else(|| SqlError::internal("a cast to no type"))
}

fn decimal_digits(ty: PgType) -> u8 {
    match ty {
        PgType::Int2 => 5,
        PgType::Int4 => 10,
        _ => 19,
    }
}

/// A number type as an exact decimal one.
fn as_decimal(ty: PgType) -> PgType {
    match ty {
        PgType::Numeric(_) => ty,
        int => PgType::Numeric(Some((decimal_digits(int), 0))),
    }
}

/// The type two numbers are compared and joined in.
fn common_number(a: PgType, b: PgType) -> PgType {
    if a == b {
        return a;
    }
    let float = |t: PgType| matches!(t, PgType::Float4 | PgType::Float8);
    if float(a) || float(b) {
        return PgType::Float8;
    }
    match (as_decimal(a), as_decimal(b)) {
        _ if a.is_integer() && b.is_integer() => a.max(b),
        (l @ PgType::Numeric(Some((_, s))), r @ PgType::Numeric(Some((_, t))))
            if whole(l).max(whole(r)) + s.max(t) <= 38 =>
        {
            PgType::Numeric(Some((38, s.max(t))))
        }
        _ => PgType::Numeric(None),
    }
}

fn arithmetic(name: &'static str, a: &Arg, b: &Arg) -> SqlResult<Resolved> {
    use PgType::{Date, Float8, Int4, Interval, Numeric, Timestamp, TimestampTz, Unknown};
    let op = table::operator_symbol(name);
    let fail = || undefined_operator(op, &[a.clone(), b.clone()]);
    let to = |l, r, ret| Ok(Resolved { args: vec![l, r], ret });
    let (l, r) = match (a.ty, b.ty) {
        (Unknown, Unknown) => {
            return Err(SqlError::new(
                SqlState::AMBIGUOUS_FUNCTION,
                format!("operator is not unique: unknown {op} unknown"),
            )
            .with_hint(
                "Could not choose a best candidate operator. You might need to add explicit type \
                 casts.",
            ));
        }
        (Unknown, t) if t.is_number() => (t, t),
        (t, Unknown) if t.is_number() => (t, t),
        other => other,
    };
    if l.is_number() && r.is_number() {
        return numbers(name, l, r).ok_or_else(fail);
    }
    match (name, l, r) {
        ("pg_add" | "pg_sub", Date, PgType::Int2 | Int4) => to(Date, Int4, Date),
        ("pg_add", PgType::Int2 | Int4, Date) => to(Int4, Date, Date),
        ("pg_sub", Date, Date | Unknown) | ("pg_sub", Unknown, Date) => to(Date, Date, Int4),
        ("pg_add" | "pg_sub", Date, Interval) => to(Timestamp, Interval, Timestamp),
        ("pg_add", Interval, Date) => to(Interval, Timestamp, Timestamp),
        ("pg_add" | "pg_sub", Timestamp | TimestampTz, Interval) => to(l, Interval, l),
        ("pg_add", Timestamp | TimestampTz, Unknown) => to(l, Interval, l),
        ("pg_add", Interval, Timestamp | TimestampTz) => to(Interval, r, r),
        ("pg_sub", Timestamp, Timestamp | Date | Unknown) | ("pg_sub", Date, Timestamp) => {
            to(Timestamp, Timestamp, Interval)
        }
        ("pg_sub", TimestampTz, TimestampTz | Timestamp | Date | Unknown)
        | ("pg_sub", Timestamp | Date, TimestampTz) => to(TimestampTz, TimestampTz, Interval),
        ("pg_add" | "pg_sub", Interval, Interval | Unknown)
        | ("pg_add" | "pg_sub", Unknown, Interval) => to(Interval, Interval, Interval),
        ("pg_mul" | "pg_div", Interval, t) if t.is_number() || t == Unknown => {
            to(Interval, Float8, Interval)
        }
        ("pg_mul", t, Interval) if t.is_number() => to(Float8, Interval, Interval),
        (_, Numeric(_), _) => Err(fail()),
        _ => Err(fail()),
    }
}

fn numbers(name: &'static str, l: PgType, r: PgType) -> Option<Resolved> {
    let ty = common_number(l, r);
    let same = |ty| Some(Resolved { args: vec![ty, ty], ret: ty });
    match ty {
        PgType::Float4 | PgType::Float8 if name == "pg_mod" => None,
        PgType::Numeric(_) => {
            let (l, r) = (as_decimal(l), as_decimal(r));
            let (PgType::Numeric(Some((_, s))), PgType::Numeric(Some((_, t)))) = (l, r) else {
                return same(PgType::Numeric(None));
            };
            match name {
                "pg_div" => {
                    let any = PgType::Numeric(None);
                    Some(Resolved { args: vec![any, any], ret: any })
                }
                "pg_mul" => exact_or_any(l, r, (digits(l) + digits(r), s + t)),
                "pg_mod" => exact_or_any(l, r, (whole(l).max(whole(r)) + s.max(t), s.max(t))),
                _ => exact_or_any(l, r, (whole(l).max(whole(r)) + s.max(t) + 1, s.max(t))),
            }
        }
        ty => same(ty),
    }
}

/// Digits of a number with limits.
fn digits(ty: PgType) -> i8 {
    match ty {
        PgType::Numeric(Some((p, _))) => i8::try_from(p).unwrap_or(i8::MAX / 4),
        _ => i8::MAX / 4,
    }
}

/// Digits before the point.
fn whole(ty: PgType) -> i8 {
    match ty {
        PgType::Numeric(Some((_, s))) => digits(ty) - s,
        _ => i8::MAX / 4,
    }
}

/// A result of so many digits if they fit into a number with limits, else one without.
fn exact_or_any(l: PgType, r: PgType, (digits, scale): (i8, i8)) -> Option<Resolved> {
    let fits = u8::try_from(digits).ok().filter(|p| *p <= 38 && scale <= 37);
    Some(match fits {
        Some(p) => Resolved { args: vec![l, r], ret: PgType::Numeric(Some((p.max(1), scale))) },
        None => {
            let any = PgType::Numeric(None);
            Resolved { args: vec![any, any], ret: any }
        }
    })
}

fn concat(args: &[Arg], a: &Arg, b: &Arg) -> SqlResult<Resolved> {
    if a.ty == PgType::Bytea && matches!(b.ty, PgType::Bytea | PgType::Unknown) {
        return Ok(Resolved { args: vec![PgType::Bytea; 2], ret: PgType::Bytea });
    }
    let stringy = |t: PgType| t.is_string() || t == PgType::Unknown;
    if !stringy(a.ty) && !stringy(b.ty) {
        return Err(undefined_operator("||", args));
    }
    let own = |arg: &Arg| if arg.ty.is_string() { PgType::Text } else { string_or_own(arg) };
    Ok(Resolved { args: vec![own(a), own(b)], ret: PgType::Text })
}

/// `extract` is exact, with as many digits as the field has; `date_part` a float.
fn extract(name: &'static str, field: &Arg, value: &Arg) -> SqlResult<Resolved> {
    let ty = match value.ty {
        PgType::Unknown => PgType::Timestamp,
        t @ (PgType::Date | PgType::Timestamp | PgType::TimestampTz | PgType::Interval) => t,
        _ => return Err(undefined_function(name, &[field.clone(), value.clone()])),
    };
    if name == "date_part" {
        return Ok(Resolved { args: vec![PgType::Text, ty], ret: PgType::Float8 });
    }
    let word = match &field.literal {
        Some(datafusion::common::ScalarValue::Utf8(Some(word))) => word.to_lowercase(),
        _ => return Err(SqlError::unsupported("extract of a field that is not a constant")),
    };
    let digits = match word.as_str() {
        "epoch" if ty == PgType::Date => 0,
        "epoch" | "second" | "seconds" => 6,
        "milliseconds" | "millisecond" => 3,
        _ => 0,
    };
    let ret = PgType::Numeric(Some((38, digits)));
    Ok(Resolved { args: vec![PgType::Text, ty], ret })
}

/// The type that both sides of a comparison are brought to.
pub fn comparable(a: &Arg, b: &Arg, op: &str) -> SqlResult<PgType> {
    use PgType::{Bool, Char, Date, Int8, Oid, Text, Timestamp, TimestampTz, Unknown};
    let fail = || undefined_operator(op, &[a.clone(), b.clone()]);
    Ok(match (a.ty, b.ty) {
        (Unknown, Unknown) => Text,
        (Unknown, t) | (t, Unknown) => match t {
            PgType::Varchar(_) | PgType::Name => Text,
            PgType::Void => return Err(fail()),
            t => t,
        },
        (l, r) if l.is_number() && r.is_number() => common_number(l, r),
        (Char(n), Char(m)) if n == m => Char(n),
        (Char(_), Char(_)) => Char(None),
        (l, r) if l.is_string() && r.is_string() => Text,
        (Oid, r) if r.is_integer() => Int8,
        (l, Oid) if l.is_integer() => Int8,
        (Date, Timestamp) | (Timestamp, Date) => Timestamp,
        (Date | Timestamp, TimestampTz) | (TimestampTz, Date | Timestamp) => TimestampTz,
        (l, r) if l == r && l != PgType::Void => l,
        (Bool, _) | (_, Bool) => return Err(fail()),
        _ => return Err(fail()),
    })
}

/// The type of CASE, COALESCE, UNION and VALUES over some values.
pub fn common_type(what: &str, args: &[Arg]) -> SqlResult<PgType> {
    let mut ty = PgType::Unknown;
    let mut first = true;
    for arg in args {
        if arg.ty == PgType::Unknown {
            continue;
        }
        if first {
            ty = arg.ty;
            first = false;
            continue;
        }
        ty = common_of_two(ty, arg.ty).ok_or_else(|| {
            SqlError::new(
                SqlState::DATATYPE_MISMATCH,
                format!(
                    "{} types {} and {} cannot be matched",
                    what.to_uppercase(),
                    ty.sql_name(),
                    arg.ty.sql_name()
                ),
            )
        })?;
    }
    Ok(if ty == PgType::Unknown { PgType::Text } else { ty })
}

fn common_of_two(a: PgType, b: PgType) -> Option<PgType> {
    if a == b {
        return Some(a);
    }
    if let (PgType::Numeric(x), PgType::Numeric(y)) = (a, b) {
        // Each value keeps the digits it shows.
        let same_scale = x.zip(y).is_some_and(|((_, s), (_, t))| s == t);
        return Some(match same_scale {
            true => PgType::Numeric(Some((38, x.map_or(0, |(_, s)| s)))),
            false => PgType::Numeric(None),
        });
    }
    if a.without_modifier() == b.without_modifier() {
        return Some(a.without_modifier());
    }
    if a.is_number() && b.is_number() {
        let float = |t: PgType| matches!(t, PgType::Float4 | PgType::Float8);
        return Some(match (a, b) {
            _ if a.is_integer() && b.is_integer() => a.max(b),
            _ if float(a) && float(b) => PgType::Float8,
            _ if float(a) => a,
            _ if float(b) => b,
            (PgType::Numeric(Some((_, 0))), _) | (_, PgType::Numeric(Some((_, 0)))) => {
                PgType::Numeric(Some((38, 0)))
            }
            _ => PgType::Numeric(None),
        });
    }
    if a.is_string() && b.is_string() {
        return Some(if matches!(a, PgType::Char(_)) {
            b.without_modifier()
        } else {
            PgType::Text
        });
    }
    let up = |from, to| allowed(from, to) == Some(Context::Implicit);
    if up(a, b) {
        Some(b)
    } else if up(b, a) {
        Some(a)
    } else {
        None
    }
}

/// Whether two types are one, whatever their modifiers.
pub fn same_type(a: PgType, b: PgType) -> bool {
    a.without_modifier() == b.without_modifier()
}

/// Whether an argument fits a parameter of the table, and how well; lower is better.
fn fits(arg: &Arg, wanted: T) -> Option<u32> {
    let ty = wanted.pg();
    let own = arg.ty.without_modifier();
    if own == ty {
        return Some(0);
    }
    if arg.ty == PgType::Unknown {
        return Some(if wanted == T::Text { 2 } else { 3 });
    }
    if allowed(own, ty) != Some(Context::Implicit) {
        return None;
    }
    // The preferred types of their families win.
    Some(if matches!(wanted, T::F8 | T::Text | T::Tz) { 10 } else { 11 })
}

fn overload(name: &'static str, args: &[Arg]) -> SqlResult<Resolved> {
    let mut best: Option<(u32, &table::Overload)> = None;
    for candidate in table::overloads(name) {
        if candidate.args.len() != args.len() {
            continue;
        }
        let mut score = 0;
        let fit = candidate.args.iter().zip(args).try_for_each(|(wanted, arg)| {
            score += fits(arg, *wanted)?;
            Some(())
        });
        if fit.is_some() && best.is_none_or(|(least, _)| score < least) {
            best = Some((score, candidate));
        }
    }
    let Some((_, found)) = best else {
        return Err(match table::operator_symbol(name) {
            "" => undefined_function(name, args),
            op => undefined_operator(op, args),
        });
    };
    let keep = |(wanted, arg): (&T, &Arg)| match (wanted, arg.ty) {
        // A number with limits is read as it is.
        (T::Num, PgType::Numeric(_)) => arg.ty,
        _ => wanted.pg(),
    };
    let args = found.args.iter().zip(args).map(keep).collect();
    Ok(Resolved { args, ret: found.ret.pg() })
}
