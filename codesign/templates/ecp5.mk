# The bitstream of $board with native tools: yosys, nextpnr-ecp5, ecppack. codesign export --bitstream makes it with those from PyPI,
# and packs registers into multipliers and block RAMs, which these do not.
.DELETE_ON_ERROR:

$name.bit: $name.config
	ecppack --compress $$< $$@

$name.config: $name.json board.lpf
	nextpnr-ecp5 --85k $placer --package $package --speed $speed --json $$< --lpf board.lpf --textcfg $$@ --report timing.json

$name.json: ../rtl/$top.v
	yosys -q -p "read_verilog $$<; hierarchy -top $top; rename -hide */w:*[*; synth_ecp5 -top $top -json $$@"
