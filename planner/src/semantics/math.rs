//! Mathematical functions.

use std::borrow::Cow;

use super::cast::{of_number, owned};
use super::function::{Call, Evaluator};
use super::ops::{check_float, float_arg, number_arg};
use super::strings::int;
use crate::error::{SqlError, SqlResult, SqlState};
use crate::keyenc::Datum;
use crate::types::PgType;
use crate::types::numeric::{Numeric, division_by_zero, out_of_range};

macro_rules! float_function {
    ($f:expr) => {
        |call, v| {
            let f: fn(f64) -> f64 = $f;
            let x = float_arg(call, v, 0)?;
            Ok(Datum::Float8(check_float(f(x), x.is_finite(), false)?))
        }
    };
}

/// What computes a mathematical function.
pub fn evaluator(name: &str) -> Option<Evaluator> {
    Some(match name {
        "abs" => abs,
        "ceil" | "ceiling" => |call, v| whole(call, v, f64::ceil, |n| n.whole(true)),
        "floor" => |call, v| whole(call, v, f64::floor, |n| n.whole(false)),
        "round" => |call, v| {
            let n = digits(v)?;
            match call.ret {
                PgType::Float8 => Ok(Datum::Float8(float_arg(call, v, 0)?.round_ties_even())),
                ty => of_number(number_arg(call, v, 0)?.round(n)?, ty),
            }
        },
        "trunc" => |call, v| {
            let n = digits(v)?;
            match call.ret {
                PgType::Float8 => Ok(Datum::Float8(float_arg(call, v, 0)?.trunc())),
                ty => of_number(number_arg(call, v, 0)?.trunc(n)?, ty),
            }
        },
        "sign" => sign,
        "sqrt" => sqrt,
        "cbrt" => float_function!(f64::cbrt),
        "exp" => |call, v| {
            let x = float_arg(call, v, 0)?;
            Ok(Datum::Float8(check_float(x.exp(), x.is_finite(), x.is_finite())?))
        },
        "ln" => |call, v| logarithm(call, v, f64::ln),
        "log" | "log10" => |call, v| logarithm(call, v, f64::log10),
        "power" | "pow" | "pg_pow" => power,
        "div" => |call, v| {
            let (a, b) = (number_arg(call, v, 0)?, number_arg(call, v, 1)?);
            if b.sign() == Some(0) {
                return Err(division_by_zero());
            }
            let rest = a.rem(&b)?;
            of_number(a.add(&rest.neg())?.div(&b)?.round(0)?, call.ret)
        },
        "pi" => |_, _| Ok(Datum::Float8(std::f64::consts::PI)),
        "gcd" => |call, v| {
            let divisor = gcd(int(&v[0])?.unsigned_abs(), int(&v[1])?.unsigned_abs());
            fit(i64::try_from(divisor).ok(), call.ret)
        },
        "lcm" => |call, v| {
            let (a, b) = (int(&v[0])?.unsigned_abs(), int(&v[1])?.unsigned_abs());
            let divisor = gcd(a, b);
            if divisor == 0 {
                return Ok(Datum::Int(0));
            }
            fit((a / divisor).checked_mul(b).and_then(|n| i64::try_from(n).ok()), call.ret)
        },
        "random" => |_, _| {
            let bits = uuid::Uuid::new_v4().as_u128();
            // The random low half; 53 bits are what a float holds.
            let mantissa = (bits as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (bits >> 80) as u64;
            Ok(Datum::Float8((mantissa >> 11) as f64 / (1u64 << 53) as f64))
        },
        "gen_random_uuid" => {
            |_, _| Ok(Datum::Bytes(Cow::Owned(uuid::Uuid::new_v4().as_bytes().to_vec())))
        }
        other => return trigonometry(other),
    })
}

fn trigonometry(name: &str) -> Option<Evaluator> {
    Some(match name {
        "sin" => |call, v| periodic(call, v, f64::sin),
        "cos" => |call, v| periodic(call, v, f64::cos),
        "tan" => |call, v| periodic(call, v, f64::tan),
        "cot" => |call, v| {
            let x = float_arg(call, v, 0)?;
            check_input(x.is_finite() || x.is_nan())?;
            Ok(Datum::Float8(1.0 / x.tan()))
        },
        "asin" => |call, v| inverse(call, v, f64::asin),
        "acos" => |call, v| inverse(call, v, f64::acos),
        "atan" => float_function!(f64::atan),
        "atan2" => {
            |call, v| Ok(Datum::Float8(float_arg(call, v, 0)?.atan2(float_arg(call, v, 1)?)))
        }
        "sinh" => |call, v| Ok(Datum::Float8(float_arg(call, v, 0)?.sinh())),
        "cosh" => |call, v| Ok(Datum::Float8(float_arg(call, v, 0)?.cosh())),
        "tanh" => |call, v| Ok(Datum::Float8(float_arg(call, v, 0)?.tanh())),
        "degrees" => float_function!(|x| x / (std::f64::consts::PI / 180.0)),
        "radians" => float_function!(|x| x * (std::f64::consts::PI / 180.0)),
        _ => return None,
    })
}

fn digits(v: &[Datum<'_>]) -> SqlResult<i32> {
    match v.get(1) {
        Some(n) => Ok(int(n)?.clamp(-2000, 2000) as i32),
        None => Ok(0),
    }
}

fn abs(call: &Call<'_>, v: &[Datum<'_>]) -> SqlResult<Datum<'static>> {
    Ok(match &v[0] {
        Datum::Int(a) => fit(a.checked_abs(), call.ret)?,
        Datum::Float8(a) => Datum::Float8(a.abs()),
        Datum::Float4(a) => Datum::Float4(a.abs()),
        Datum::Decimal(a) => Datum::Decimal(a.abs()),
        _ => {
            let n = number_arg(call, v, 0)?;
            of_number(if n.sign() == Some(-1) { n.neg() } else { n }, call.ret)?
        }
    })
}

fn fit(value: Option<i64>, ty: PgType) -> SqlResult<Datum<'static>> {
    super::cast::fit_int(value.ok_or_else(|| out_of_range(ty.sql_name()))?, ty)
}

fn whole(
    call: &Call<'_>,
    v: &[Datum<'_>],
    float: fn(f64) -> f64,
    exact: fn(&Numeric) -> SqlResult<Numeric>,
) -> SqlResult<Datum<'static>> {
    match call.ret {
        PgType::Float8 => Ok(Datum::Float8(float(float_arg(call, v, 0)?))),
        ty => of_number(exact(&number_arg(call, v, 0)?)?, ty),
    }
}

fn sign(call: &Call<'_>, v: &[Datum<'_>]) -> SqlResult<Datum<'static>> {
    if call.ret == PgType::Float8 {
        let x = float_arg(call, v, 0)?;
        let sign = f64::from(i8::from(x > 0.0) - i8::from(x < 0.0));
        return Ok(Datum::Float8(sign));
    }
    match number_arg(call, v, 0)?.sign() {
        Some(sign) => of_number(Numeric::of_int(i64::from(sign)), call.ret),
        None => Ok(owned(v[0].clone())),
    }
}

fn sqrt(call: &Call<'_>, v: &[Datum<'_>]) -> SqlResult<Datum<'static>> {
    if call.ret != PgType::Float8 {
        return of_number(number_arg(call, v, 0)?.sqrt()?, call.ret);
    }
    let x = float_arg(call, v, 0)?;
    if x < 0.0 {
        return Err(SqlError::new(
            SqlState::INVALID_ARGUMENT_FOR_POWER,
            "cannot take square root of a negative number",
        ));
    }
    Ok(Datum::Float8(x.sqrt()))
}

fn logarithm(call: &Call<'_>, v: &[Datum<'_>], f: fn(f64) -> f64) -> SqlResult<Datum<'static>> {
    let x = float_arg(call, v, 0)?;
    let error = |what| {
        let message = format!("cannot take logarithm of {what}");
        Err(SqlError::new(SqlState::INVALID_ARGUMENT_FOR_LOGARITHM, message))
    };
    if x == 0.0 {
        return error("zero");
    }
    if x < 0.0 {
        return error("a negative number");
    }
    Ok(Datum::Float8(f(x)))
}

fn power(call: &Call<'_>, v: &[Datum<'_>]) -> SqlResult<Datum<'static>> {
    let (x, y) = (float_arg(call, v, 0)?, float_arg(call, v, 1)?);
    let error = |message: &str| Err(SqlError::new(SqlState::INVALID_ARGUMENT_FOR_POWER, message));
    if x == 0.0 && y < 0.0 {
        return error("zero raised to a negative power is undefined");
    }
    if x < 0.0 && y.is_finite() && y.fract() != 0.0 {
        return error("a negative number raised to a non-integer power yields a complex result");
    }
    let finite = x.is_finite() && y.is_finite();
    Ok(Datum::Float8(check_float(x.powf(y), finite, finite && x != 0.0)?))
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

fn check_input(inside: bool) -> SqlResult<()> {
    if inside {
        return Ok(());
    }
    Err(SqlError::new(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, "input is out of range"))
}

fn periodic(call: &Call<'_>, v: &[Datum<'_>], f: fn(f64) -> f64) -> SqlResult<Datum<'static>> {
    let x = float_arg(call, v, 0)?;
    check_input(!x.is_infinite())?;
    Ok(Datum::Float8(f(x)))
}

fn inverse(call: &Call<'_>, v: &[Datum<'_>], f: fn(f64) -> f64) -> SqlResult<Datum<'static>> {
    let x = float_arg(call, v, 0)?;
    check_input(x.is_nan() || x.abs() <= 1.0)?;
    Ok(Datum::Float8(f(x)))
}
