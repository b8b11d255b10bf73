// What a block RAM of Xilinx' 7 series does in a mapped netlist, as far as Yosys uses it: true dual port, 9, 18 or 36 bits
// wide, no output register, no initial content. Yosys' own library declares the cell and leaves it empty.
module codesign_block_ram #(
    parameter BYTES = 4096,
    parameter READ_A = 0, parameter READ_B = 0, parameter WRITE_A = 0, parameter WRITE_B = 0
) (
    input clk_a, input clk_b, input en_a, input en_b, input [3:0] we_a, input [3:0] we_b,
    input [11:0] address_a, input [11:0] address_b,
    input [31:0] di_a, input [31:0] di_b, input [3:0] dip_a, input [3:0] dip_b,
    output reg [31:0] do_a, output reg [31:0] do_b, output reg [3:0] dop_a, output reg [3:0] dop_b
);
    reg [8:0] kept [0:BYTES-1];
    integer i;
    function [11:0] first(input [11:0] address, input integer width);
        first = address & ~((width / 9) - 1);
    endfunction
    always @(posedge clk_a) if (en_a) begin
        for (i = 0; i < READ_A / 9; i = i + 1)
            {dop_a[i], do_a[8*i +: 8]} <= kept[first(address_a, READ_A) + i];
        for (i = 0; i < WRITE_A / 9; i = i + 1)
            if (we_a[i]) kept[first(address_a, WRITE_A) + i] <= {dip_a[i], di_a[8*i +: 8]};
    end
    always @(posedge clk_b) if (en_b) begin
        for (i = 0; i < READ_B / 9; i = i + 1)
            {dop_b[i], do_b[8*i +: 8]} <= kept[first(address_b, READ_B) + i];
        for (i = 0; i < WRITE_B / 9; i = i + 1)
            if (we_b[i]) kept[first(address_b, WRITE_B) + i] <= {dip_b[i], di_b[8*i +: 8]};
    end
    if (READ_A % 9 || READ_B % 9 || WRITE_A % 9 || WRITE_B % 9 || READ_A > 36 || READ_B > 36 || WRITE_A > 36 || WRITE_B > 36)
        $error("a block RAM of a width that is not modelled");
endmodule
