# Processing system, machine and what lies between them, for $board, as a block design; then its bitstream.
#     vivado -mode batch -source project.tcl
# Leaves $name.bit and $name.hwh (PYNQ wants both), utilization.txt and timing.txt beside this script.
set here [file dirname [file normalize [info script]]]
create_project -force $name [file join $$here project] -part $part
if {[llength [get_board_parts -quiet $vendor_board]]} {
    set_property board_part $vendor_board [current_project]
} else {
    puts "WARNING: no board files for $vendor_board: memory and clocks of the processing system are as the boot image sets them"
}
add_files -norecurse [list [file join $$here .. rtl $top.v] [file join $$here $wrapper.v]]
update_compile_order -fileset sources_1

create_bd_design system
create_bd_cell -type ip -vlnv xilinx.com:ip:processing_system7:5.5 ps
apply_bd_automation -rule xilinx.com:bd_rule:processing_system7 -config {make_external "FIXED_IO, DDR" apply_board_preset "1" Master "Disable" Slave "Disable"} [get_bd_cells ps]
set settings [list CONFIG.PCW_USE_M_AXI_GP0 1 CONFIG.PCW_USE_FABRIC_INTERRUPT 1 CONFIG.PCW_IRQ_F2P_INTR 1 CONFIG.PCW_FPGA0_PERIPHERAL_FREQMHZ $clock_mhz]
for {set port 0} {$$port < $ports} {incr port} {
    lappend settings CONFIG.PCW_USE_S_AXI_HP$$port 1 CONFIG.PCW_S_AXI_HP$${port}_DATA_WIDTH 64
}
set_property -dict $$settings [get_bd_cells ps]
create_bd_cell -type module -reference $wrapper machine
create_bd_cell -type ip -vlnv xilinx.com:ip:proc_sys_reset:5.0 resets

# GP0 to the registers; each memory port of the machine to an HP port of its own. All of it runs on one clock.
proc between {name master slave} {
    create_bd_cell -type ip -vlnv xilinx.com:ip:smartconnect:1.0 $$name
    set_property -dict [list CONFIG.NUM_SI 1 CONFIG.NUM_MI 1] [get_bd_cells $$name]
    connect_bd_intf_net [get_bd_intf_pins $$master] [get_bd_intf_pins $$name/S00_AXI]
    connect_bd_intf_net [get_bd_intf_pins $$name/M00_AXI] [get_bd_intf_pins $$slave]
    connect_bd_net [get_bd_pins resets/peripheral_aresetn] [get_bd_pins $$name/aresetn]
}
set clocked [list ps/M_AXI_GP0_ACLK machine/clk resets/slowest_sync_clk registers/aclk]
between registers ps/M_AXI_GP0 machine/s_axi
for {set port 0} {$$port < $ports} {incr port} {
    between memory_$$port machine/m_axi_$$port ps/S_AXI_HP$$port
    lappend clocked memory_$$port/aclk ps/S_AXI_HP$${port}_ACLK
}
foreach pin $$clocked {
    connect_bd_net [get_bd_pins ps/FCLK_CLK0] [get_bd_pins $$pin]
}
connect_bd_net [get_bd_pins ps/FCLK_RESET0_N] [get_bd_pins resets/ext_reset_in]
connect_bd_net [get_bd_pins resets/peripheral_reset] [get_bd_pins machine/rst]
connect_bd_net [get_bd_pins machine/interrupt] [get_bd_pins ps/IRQ_F2P]
assign_bd_address
validate_bd_design
save_bd_design
make_wrapper -files [get_files system.bd] -top -import
set_property top system_wrapper [current_fileset]

launch_runs impl_1 -to_step write_bitstream -jobs 4
wait_on_run impl_1
if {[get_property PROGRESS [get_runs impl_1]] ne "100%"} {
    puts "ERROR: no bitstream was made; see project/$name.runs/impl_1/runme.log"
    exit 1
}
open_run impl_1
report_utilization -hierarchical -file [file join $$here utilization.txt]
report_timing_summary -file [file join $$here timing.txt]
set slack [get_property SLACK [get_timing_paths -max_paths 1]]
if {$$slack < 0} {
    puts "ERROR: the clock of $clock_mhz MHz is missed by [expr {-$$slack}] ns, see timing.txt: no bitstream is kept"
    exit 1
}
# Vivado before 2020.2 has .srcs where later ones have .gen.
set handoff [glob -directory [file join $$here project] $name.{gen,srcs}/sources_1/bd/system/hw_handoff/system.hwh]
file copy -force [lindex $$handoff 0] [file join $$here $name.hwh]
file copy -force [file join $$here project $name.runs impl_1 system_wrapper.bit] [file join $$here $name.bit]
puts "$name.bit: the clock of $clock_mhz MHz is met with $$slack ns to spare."
