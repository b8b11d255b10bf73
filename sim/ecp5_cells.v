// What an ECP5's block RAMs and multipliers do in a placed netlist, as far as Yosys and `sim/packing.py` use them. Yosys' own
// library declares these cells and leaves them empty.

// True dual port with 1, 2, 4, 9 or 18 bits, or 36 bits written through A and read through B; no initial content. Addresses
// count bits; of 18 and 36 bits, the lowest address bits enable bytes. A register behind either output, where there is one; of
// 36 bits, B's clock and enable are both halves'.
module codesign_dp16kd #(
    parameter WIDTH_A = 18, parameter WIDTH_B = 18, parameter REG_A = 0, parameter REG_B = 0
) (
    input clk_a, input clk_b, input en_a, input en_b, input we_a, input we_b, input [13:0] ad_a, input [13:0] ad_b,
    input [17:0] di_a, input [17:0] di_b, input out_a, input out_b, output [17:0] do_a, output [17:0] do_b
);
    localparam BYTES = WIDTH_A < 18 ? 1 : WIDTH_A / 9, PART = WIDTH_A / BYTES;
    localparam LOW = WIDTH_A < 9 ? WIDTH_A / 2 : WIDTH_A == 9 ? 3 : WIDTH_A == 18 ? 4 : 5;
    reg [WIDTH_A-1:0] kept [0:(1 << (14 - LOW))-1];
    reg [WIDTH_A-1:0] read_a, read_b;
    reg [WIDTH_A-1:0] held_a = 0, held_b = 0;
    wire [WIDTH_A-1:0] from_a = REG_A ? held_a : read_a, from_b = REG_B ? held_b : read_b;
    wire [35:0] data_a = {di_b, di_a}, out = from_b;
    wire [3:0] bytes_a = BYTES > 1 ? ad_a[3:0] : 4'b1, bytes_b = BYTES > 1 ? ad_b[3:0] : 4'b1;
    integer i;
    generate
        if (WIDTH_A != WIDTH_B || WIDTH_A == 36 && REG_A != REG_B) $error("a block RAM of widths that are not modelled");
    endgenerate
    always @(posedge clk_a) if (en_a) begin
        read_a <= kept[ad_a[13:LOW]];
        if (we_a) for (i = 0; i < BYTES; i = i + 1)
            if (bytes_a[i]) kept[ad_a[13:LOW]][PART*i +: PART] <= data_a[PART*i +: PART];
    end
    always @(posedge clk_b) if (en_b) begin
        read_b <= kept[ad_b[13:LOW]];
        if (we_b && WIDTH_A != 36) for (i = 0; i < BYTES; i = i + 1)
            if (bytes_b[i]) kept[ad_b[13:LOW]][PART*i +: PART] <= di_b[PART*i +: PART];
    end
    always @(posedge clk_a) if (out_a) held_a <= read_a;
    always @(posedge clk_b) if (out_b) held_b <= read_b;
    assign do_a = WIDTH_A == 36 ? out[17:0] : from_a, do_b = WIDTH_A == 36 ? out[35:18] : from_b;
endmodule

// 16 words of 4 bits in LUTs, as Yosys' own, which `flatten` makes single bits of.
module TRELLIS_DPR16X4 #(
    parameter WCKMUX = "WCK", parameter WREMUX = "WRE", parameter [63:0] INITVAL = 0
) (
    input [3:0] DI, input [3:0] WAD, input WRE, input WCK, input [3:0] RAD, output [3:0] DO
);
    reg [3:0] kept [0:15];
    integer i;
    initial for (i = 0; i < 16; i = i + 1) kept[i] = INITVAL[4*i +: 4];
    generate
        if (WCKMUX != "WCK" || WREMUX != "WRE") $error("a LUT memory of a mode that is not modelled");
    endgenerate
    always @(posedge WCK) if (WRE) kept[WAD] <= DI;
    assign DO = kept[RAD];
endmodule

// 18 x 18 bits, each signed or not; a register before either operand and one behind the product, where there is one.
module codesign_mult18x18d #(
    parameter REG_A = 0, parameter REG_B = 0, parameter REG_P = 0
) (
    input clk, input [17:0] a, input [17:0] b, input signed_a, input signed_b, output [35:0] p
);
    reg [17:0] held_a, held_b;
    reg [35:0] held_p;
    wire signed [18:0] x = REG_A ? {signed_a & held_a[17], held_a} : {signed_a & a[17], a};
    wire signed [18:0] y = REG_B ? {signed_b & held_b[17], held_b} : {signed_b & b[17], b};
    wire signed [37:0] product = x * y;
    always @(posedge clk) begin
        held_a <= a;
        held_b <= b;
        held_p <= product[35:0];
    end
    assign p = REG_P ? held_p : product[35:0];
endmodule
