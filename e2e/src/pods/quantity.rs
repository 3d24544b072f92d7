//! Kubernetes quantities (`500m`, `1Gi`), as far as `resourceFieldRef` needs them: a value divided by a divisor, rounded up.
//! Source: the Quantity page of the API reference. Pure. Invariant: counted in thousandths, so `m` loses nothing.

/// The quantity in thousandths.
fn milli(text: &str) -> Option<i128> {
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let scale: i128 = match suffix {
        "" => 1000,
        "m" => 1,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "T" => 1_000_000_000_000_000,
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        "Ti" => 1000 << 40,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: i128 = whole.parse().ok()?;
    let digits = u32::try_from(fraction.len()).ok()?;
    let fraction: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    Some(whole * scale + fraction * scale / 10i128.checked_pow(digits)?)
}

/// `value / divisor` rounded up; none for what is no quantity. A divisor of `0` or nothing is 1.
pub(crate) fn divide(value: &str, divisor: &str) -> Option<i128> {
    let divisor = match divisor {
        "" | "0" => 1000,
        text => milli(text)?,
    };
    let value = milli(value)?;
    (divisor > 0).then(|| (value + divisor - 1).div_euclid(divisor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_divided_and_rounded_up() {
        let cases = [
            ("500m", "", Some(1)),
            ("500m", "1m", Some(500)),
            ("1.5", "1m", Some(1500)),
            ("64Mi", "1Mi", Some(64)),
            ("1Gi", "0", Some(1 << 30)),
            ("x", "", None),
        ];
        for (value, divisor, expect) in cases {
            assert_eq!(divide(value, divisor), expect, "{value}/{divisor}");
        }
    }
}
