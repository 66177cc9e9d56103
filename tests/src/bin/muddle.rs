//! `muddle SEED OPERATIONS [small]`: random operations in the current directory (`tests::muddle`); small:
//! prints a line after each.

use std::path::Path;

use tests::muddle::{Kind, Muddle};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |place: usize| -> u64 {
        let text = arguments.get(place).map_or("", String::as_str);
        text.parse().expect("muddle SEED OPERATIONS [small]")
    };
    let is_small = arguments.get(2).is_some_and(|word| word == "small");
    let kind = if is_small { Kind::Small } else { Kind::Everything };
    let tell = |number| {
        if is_small {
            println!("{number}");
        }
    };
    Muddle::new(Path::new("."), number(0), kind).run(number(1) as usize, tell);
}
