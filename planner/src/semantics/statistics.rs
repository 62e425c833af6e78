//! Variances, deviations and regressions as PostgreSQL computes them: of exact numbers exactly, of
//! floats by Youngs and Cramer's formula, digit for digit the same.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result as DfResult, ScalarValue};
use datafusion::logical_expr::Accumulator;

use super::cast::{float, number, of_number};
use crate::error::{SqlError, SqlResult, SqlState};
use crate::keyenc::Datum;
use crate::types::PgType;
use crate::types::numeric::Numeric;

/// Aggregates of one number.
const OF_ONE: [&str; 6] =
    ["variance", "var_samp", "var_pop", "stddev", "stddev_samp", "stddev_pop"];

/// Aggregates of two numbers, the dependent one first.
const OF_TWO: [&str; 12] = [
    "corr",
    "covar_pop",
    "covar_samp",
    "regr_avgx",
    "regr_avgy",
    "regr_count",
    "regr_intercept",
    "regr_r2",
    "regr_slope",
    "regr_sxx",
    "regr_sxy",
    "regr_syy",
];

/// Names of all of them.
pub fn names() -> impl Iterator<Item = &'static str> {
    OF_ONE.into_iter().chain(OF_TWO)
}

/// Whether the name is one of them.
pub fn is_statistic(name: &str) -> bool {
    names().any(|known| known == name)
}

/// Whether it takes two arguments.
pub fn is_of_two(name: &str) -> bool {
    OF_TWO.contains(&name)
}

/// The type arguments are brought to and that of the result; `None` if there is no such aggregate.
pub fn types(name: &str, ty: PgType) -> Option<(PgType, PgType)> {
    use PgType::{Float4, Float8, Int8, Numeric, Unknown};
    if is_of_two(name) {
        let ret = if name == "regr_count" { Int8 } else { Float8 };
        return (ty.is_number() || ty == Unknown).then_some((Float8, ret));
    }
    match ty {
        Float4 | Float8 | Unknown => Some((Float8, Float8)),
        ty if ty.is_number() => Some((ty, Numeric(None))),
        _ => None,
    }
}

/// The accumulator of an aggregate over values of a type.
pub fn accumulator(name: &'static str, ty: PgType) -> Box<dyn Accumulator> {
    if is_of_two(name) {
        return Box::new(Floats {
            name,
            n: 0.0,
            x: Moments::default(),
            y: Moments::default(),
            xy: 0.0,
        });
    }
    match ty {
        PgType::Float8 => {
            Box::new(Floats { name, n: 0.0, x: Moments::default(), y: Moments::default(), xy: 0.0 })
        }
        ty => Box::new(Exact { name, ty, n: 0, sum: Numeric::ZERO, squares: Numeric::ZERO }),
    }
}

/// The columns of an accumulator's state.
pub fn state_fields(name: &str, exact: bool) -> Vec<FieldRef> {
    let field = |part: &str, ty| Arc::new(Field::new(format!("{name}_{part}"), ty, true));
    if exact {
        return vec![
            field("n", DataType::Int64),
            field("sum", DataType::LargeBinary),
            field("squares", DataType::LargeBinary),
        ];
    }
    ["n", "sx", "sxx", "sy", "syy", "sxy"].map(|part| field(part, DataType::Float64)).into()
}

/// Sums of exact numbers and of their squares.
#[derive(Debug)]
struct Exact {
    name: &'static str,
    ty: PgType,
    n: i64,
    sum: Numeric,
    squares: Numeric,
}

impl Exact {
    fn add(&mut self, value: &Numeric, sign: i64) -> SqlResult<()> {
        let square = value.mul(value)?;
        let (value, square) = if sign < 0 { (value.neg(), square.neg()) } else { (*value, square) };
        self.n += sign;
        self.sum = self.sum.add(&value)?;
        self.squares = self.squares.add(&square)?;
        Ok(())
    }

    fn each(&mut self, array: &ArrayRef, sign: i64) -> SqlResult<()> {
        for row in (0..array.len()).filter(|row| !array.is_null(*row)) {
            let value = number(&Datum::of_cell(array.as_ref(), row)?, self.ty)?;
            self.add(&value, sign)?;
        }
        Ok(())
    }

    fn result(&self) -> SqlResult<ScalarValue> {
        let ret = PgType::Numeric(None);
        let sample = !self.name.ends_with("_pop");
        if self.n < 1 + i64::from(sample) {
            return Ok(ScalarValue::try_from(&ret.arrow())?);
        }
        let finite = |n: &Numeric| matches!(n, Numeric::Finite { .. });
        if !finite(&self.sum) || !finite(&self.squares) {
            return of_number(Numeric::NaN, ret)?.to_scalar(ret);
        }
        let n = Numeric::of_int(self.n);
        let spread = n.mul(&self.squares)?.add(&self.sum.mul(&self.sum)?.neg())?;
        if spread.sign() != Some(1) {
            return of_number(Numeric::ZERO, ret)?.to_scalar(ret);
        }
        let pairs = n.mul(&Numeric::of_int(self.n - i64::from(sample)))?;
        let variance = spread.div(&pairs)?;
        let result = if self.name.starts_with("var") {
            variance
        } else {
            let Numeric::Finite { scale, .. } = variance else {
                return Err(SqlError::internal("a variance is finite"));
            };
            variance.sqrt_to(i32::from(scale))?
        };
        of_number(result, ret)?.to_scalar(ret)
    }
}

impl Accumulator for Exact {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        Ok(self.each(&values[0], 1)?)
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        Ok(self.result()?)
    }

    fn size(&self) -> usize {
        size_of::<Self>()
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        Ok(vec![
            ScalarValue::Int64(Some(self.n)),
            ScalarValue::LargeBinary(Some(self.sum.to_bytes())),
            ScalarValue::LargeBinary(Some(self.squares.to_bytes())),
        ])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DfResult<()> {
        for row in 0..states[0].len() {
            let (Datum::Int(n), Datum::Bytes(sum), Datum::Bytes(squares)) = (
                Datum::of_cell(states[0].as_ref(), row)?,
                Datum::of_cell(states[1].as_ref(), row)?,
                Datum::of_cell(states[2].as_ref(), row)?,
            ) else {
                continue;
            };
            self.n += n;
            self.sum = self.sum.add(&Numeric::from_bytes(&sum)?)?;
            self.squares = self.squares.add(&Numeric::from_bytes(&squares)?)?;
        }
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        Ok(self.each(&values[0], -1)?)
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }
}

/// A sum and the sum of squares around its mean.
#[derive(Debug, Default, Clone, Copy)]
struct Moments {
    sum: f64,
    squares: f64,
}

/// Floats, as `float8_accum` and `float8_regr_accum` gather them.
#[derive(Debug)]
struct Floats {
    name: &'static str,
    n: f64,
    x: Moments,
    y: Moments,
    xy: f64,
}

fn overflow() -> SqlError {
    SqlError::new(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, "value out of range: overflow")
}

impl Floats {
    fn add(&mut self, x: f64, y: f64) -> SqlResult<()> {
        let before = (self.x.sum, self.y.sum);
        self.n += 1.0;
        self.x.sum += x;
        self.y.sum += y;
        if self.n > 1.0 {
            let dx = x * self.n - self.x.sum;
            let dy = y * self.n - self.y.sum;
            let pairs = self.n * (self.n - 1.0);
            let scale = 1.0 / pairs;
            self.x.squares += match is_of_two(self.name) {
                true => dx * dx * scale,
                // `float8_accum` divides, and the last digit tells.
                false => dx * dx / pairs,
            };
            self.y.squares += dy * dy * scale;
            self.xy += dx * dy * scale;
            let infinite = [self.x.sum, self.y.sum, self.x.squares, self.y.squares, self.xy]
                .iter()
                .any(|v| v.is_infinite());
            if infinite {
                let was_finite = [before.0, before.1, x, y].iter().all(|v| v.is_finite());
                if was_finite {
                    return Err(overflow());
                }
                self.poison();
            }
        } else if !x.is_finite() || !y.is_finite() {
            self.poison();
        }
        Ok(())
    }

    /// With an infinity or NaN among the values there is no variance.
    fn poison(&mut self) {
        self.x.squares = f64::NAN;
        self.y.squares = f64::NAN;
        self.xy = f64::NAN;
    }

    fn each(&mut self, values: &[ArrayRef]) -> SqlResult<()> {
        for row in 0..values[0].len() {
            if values.iter().any(|array| array.is_null(row)) {
                continue;
            }
            let at = |i: usize| match values.get(i) {
                Some(array) => float(&Datum::of_cell(array.as_ref(), row)?, PgType::Float8),
                None => Ok(0.0),
            };
            match is_of_two(self.name) {
                // The dependent variable comes first.
                true => self.add(at(1)?, at(0)?)?,
                false => self.add(at(0)?, 0.0)?,
            }
        }
        Ok(())
    }

    fn result(&self) -> Option<f64> {
        let n = self.n;
        let (sxx, syy, sxy) = (self.x.squares, self.y.squares, self.xy);
        let some = |least: f64, value: f64| (n >= least).then_some(value);
        match self.name {
            "var_pop" => some(1.0, sxx / n),
            "stddev_pop" => some(1.0, (sxx / n).sqrt()),
            "variance" | "var_samp" => some(2.0, sxx / (n - 1.0)),
            "stddev" | "stddev_samp" => some(2.0, (sxx / (n - 1.0)).sqrt()),
            "regr_sxx" => some(1.0, sxx),
            "regr_syy" => some(1.0, syy),
            "regr_sxy" => some(1.0, sxy),
            "regr_avgx" => some(1.0, self.x.sum / n),
            "regr_avgy" => some(1.0, self.y.sum / n),
            "covar_pop" => some(1.0, sxy / n),
            "covar_samp" => some(2.0, sxy / (n - 1.0)),
            "corr" if sxx == 0.0 || syy == 0.0 => None,
            "corr" => some(1.0, sxy / (sxx * syy).sqrt()),
            _ if sxx == 0.0 => None,
            "regr_r2" if syy == 0.0 => some(1.0, 1.0),
            "regr_r2" => some(1.0, (sxy * sxy) / (sxx * syy)),
            "regr_slope" => some(1.0, sxy / sxx),
            _ => some(1.0, (self.y.sum - self.x.sum * sxy / sxx) / n),
        }
    }

    /// Takes over what another accumulator gathered, as `float8_regr_combine` does.
    fn merge(&mut self, n: f64, [sx, sxx, sy, syy, sxy]: [f64; 5]) {
        if n == 0.0 {
            return;
        }
        if self.n == 0.0 {
            self.n = n;
            self.x = Moments { sum: sx, squares: sxx };
            self.y = Moments { sum: sy, squares: syy };
            self.xy = sxy;
            return;
        }
        let all = self.n + n;
        let dx = self.x.sum / self.n - sx / n;
        let dy = self.y.sum / self.n - sy / n;
        self.x.squares += sxx + self.n * n * dx * dx / all;
        self.y.squares += syy + self.n * n * dy * dy / all;
        self.xy += sxy + self.n * n * dx * dy / all;
        self.x.sum += sx;
        self.y.sum += sy;
        self.n = all;
    }
}

impl Accumulator for Floats {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        Ok(self.each(values)?)
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        Ok(match self.name {
            "regr_count" => ScalarValue::Int64(Some(self.n as i64)),
            _ => ScalarValue::Float64(self.result()),
        })
    }

    fn size(&self) -> usize {
        size_of::<Self>()
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        let all = [self.n, self.x.sum, self.x.squares, self.y.sum, self.y.squares, self.xy];
        Ok(all.into_iter().map(|v| ScalarValue::Float64(Some(v))).collect())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DfResult<()> {
        for row in 0..states[0].len() {
            let mut values = [0.0; 6];
            for (value, array) in values.iter_mut().zip(states) {
                if let Datum::Float8(v) = Datum::of_cell(array.as_ref(), row)? {
                    *value = v;
                }
            }
            let [n, rest @ ..] = values;
            self.merge(n, rest);
        }
        Ok(())
    }
}
