//! Random values as the standard wants them (clauses 2.1.6, 4.3.2 and 4.3.3).

use rand::Rng;
use rand::rngs::StdRng;

/// The C of NURand for last names while loading; the run's must differ from it by a rule.
const C_LAST_LOAD: i32 = 157;
/// The A of NURand for last names, customers and items.
const A_LAST: i32 = 255;
const A_CUSTOMER: i32 = 1023;
const A_ITEM: i32 = 8191;
/// How far the run's C for last names may be from the loader's (clause 2.1.6.1), inclusive.
const C_LAST_DELTA: std::ops::RangeInclusive<i32> = 65..=119;
/// Differences the standard excludes.
const C_LAST_DELTA_EXCLUDED: [i32; 2] = [96, 112];
/// Last names the syllables form.
const LAST_NAMES: i32 = 1000;

const SYLLABLES: [&str; 10] =
    ["BAR", "OUGHT", "ABLE", "PRI", "PRES", "ESE", "ANTI", "CALLY", "ATION", "EING"];
const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const ORIGINAL: &str = "ORIGINAL";

/// The constants of the non-uniform distribution.
#[derive(Clone, Copy, Debug)]
pub struct NuRand {
    c_last: i32,
    c_customer: i32,
    c_item: i32,
}

impl NuRand {
    /// The loader's constants.
    pub fn for_load(rng: &mut StdRng) -> Self {
        Self { c_last: C_LAST_LOAD, ..Self::for_run(rng) }
    }

    /// Constants for a run that suit the loader's.
    pub fn for_run(rng: &mut StdRng) -> Self {
        let delta = loop {
            let delta = rng.random_range(C_LAST_DELTA);
            if !C_LAST_DELTA_EXCLUDED.contains(&delta) {
                break delta;
            }
        };
        let above = C_LAST_LOAD + delta;
        Self {
            c_last: if above <= A_LAST { above } else { C_LAST_LOAD - delta },
            c_customer: rng.random_range(0..=A_CUSTOMER),
            c_item: rng.random_range(0..=A_ITEM),
        }
    }

    /// A last name among those that so many customers of a district have.
    pub fn last_name(&self, rng: &mut StdRng, customers: i32) -> String {
        let names = customers.min(LAST_NAMES);
        last_name(nurand(rng, A_LAST, self.c_last, 0, names - 1))
    }

    /// A customer among so many.
    pub fn customer(&self, rng: &mut StdRng, customers: i32) -> i32 {
        nurand(rng, A_CUSTOMER, self.c_customer, 1, customers)
    }

    /// An item among so many.
    pub fn item(&self, rng: &mut StdRng, items: i32) -> i32 {
        nurand(rng, A_ITEM, self.c_item, 1, items)
    }
}

fn nurand(rng: &mut StdRng, a: i32, c: i32, low: i32, high: i32) -> i32 {
    let mixed = rng.random_range(0..=a) | rng.random_range(low..=high);
    (mixed + c) % (high - low + 1) + low
}

/// The last name number 0 to 999, of three syllables.
pub fn last_name(number: i32) -> String {
    let syllable = |digit: i32| SYLLABLES[digit.rem_euclid(10).unsigned_abs() as usize];
    [number / 100, number / 10, number].map(syllable).concat()
}

/// The last name of a customer while loading: the first thousand have each name once.
pub fn loaded_last_name(nurand: &NuRand, rng: &mut StdRng, customer: i32) -> String {
    if customer <= LAST_NAMES { last_name(customer - 1) } else { nurand.last_name(rng, LAST_NAMES) }
}

/// Random letters and digits, as many as one number of the range.
pub fn letters(rng: &mut StdRng, length: std::ops::RangeInclusive<usize>) -> String {
    let length = rng.random_range(length);
    (0..length).map(|_| LETTERS[rng.random_range(0..LETTERS.len())] as char).collect()
}

/// Random digits.
pub fn digits(rng: &mut StdRng, length: usize) -> String {
    (0..length).map(|_| rng.random_range(b'0'..=b'9') as char).collect()
}

/// A state of two letters.
pub fn state(rng: &mut StdRng) -> String {
    (0..2).map(|_| rng.random_range(b'A'..=b'Z') as char).collect()
}

/// A postal code: four random digits and 11111.
pub fn zip(rng: &mut StdRng) -> String {
    digits(rng, 4) + "11111"
}

/// Data of an item or a stock; one in ten contains ORIGINAL somewhere.
pub fn data(rng: &mut StdRng) -> String {
    let mut data = letters(rng, 26..=50);
    if percent(rng, 10) {
        let at = rng.random_range(0..=data.len() - ORIGINAL.len());
        data.replace_range(at..at + ORIGINAL.len(), ORIGINAL);
    }
    data
}

/// True so many times of a hundred.
pub fn percent(rng: &mut StdRng, share: u32) -> bool {
    rng.random_range(0..100) < share
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn last_names_are_those_of_the_standard() {
        assert_eq!(last_name(0), "BARBARBAR");
        assert_eq!(last_name(371), "PRICALLYOUGHT");
        assert_eq!(last_name(999), "EINGEINGEING");
    }

    #[test]
    fn the_run_keeps_its_distance_from_the_load() {
        for seed in 0..500 {
            let mut rng = StdRng::seed_from_u64(seed);
            let run = NuRand::for_run(&mut rng);
            let delta = (run.c_last - C_LAST_LOAD).abs();
            assert!(C_LAST_DELTA.contains(&delta) && !C_LAST_DELTA_EXCLUDED.contains(&delta));
            assert!((0..=A_LAST).contains(&run.c_last));
        }
    }

    #[test]
    fn draws_stay_in_range_and_are_not_uniform() {
        let mut rng = StdRng::seed_from_u64(3);
        let constants = NuRand::for_run(&mut rng);
        let mut counts = vec![0_u32; 3001];
        for _ in 0..300_000 {
            let customer = constants.customer(&mut rng, 3000);
            counts[usize::try_from(customer).expect("positive")] += 1;
        }
        assert_eq!(counts[0], 0);
        let most = counts.iter().max().expect("not empty");
        assert!(*most > 300, "uniform draws would give about 100 each, the most was {most}");
    }

    #[test]
    fn one_in_ten_is_original() {
        let mut rng = StdRng::seed_from_u64(5);
        let drawn: Vec<String> = (0..10_000).map(|_| data(&mut rng)).collect();
        let original = drawn.iter().filter(|data| data.contains(ORIGINAL)).count();
        assert!((900..1100).contains(&original), "{original}");
        assert!(drawn.iter().all(|data| (26..=50).contains(&data.len())));
    }
}
