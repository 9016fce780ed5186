# make demo   see it work           make test   everything is tested
# Both install what is missing with apt (Debian 12, as root) and need a Rust toolchain.

.PHONY: demo test build packages

build: packages
	cargo build --release --locked

demo: build
	tests/demo.sh

test: packages
	cargo fmt --check
	cargo clippy --all-targets --locked -- --deny warnings
	# The parts that need no Kea, alone.
	cargo test --locked --no-default-features
	# Everything, in real servers.
	cargo test --locked --test servers

packages:
	tests/packages.sh
